//! The schedules against transformers' at every step (tests/golden/make_schedules.py).

use serde_json::Value;
use tempra::train::schedule::{Schedule, ScheduleKind, warmup_steps};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/schedules.json")).expect("golden file")
}

#[test]
fn every_kind_equals_transformers_at_every_step() {
    let golden = golden();
    let cases = golden["cases"].as_array().expect("cases");
    let mut seen = std::collections::BTreeSet::new();
    for case in cases {
        let mut fields = case.clone();
        let factors = fields.as_object_mut().and_then(|o| o.remove("factors")).expect("factors");
        // transformers' default last learning rate is in each polynomial case; the rest is by our defaults.
        let schedule: Schedule = serde_json::from_value(fields.clone()).expect("fields of a schedule");
        seen.insert(case["kind"].as_str().expect("kind").to_owned());
        for (step, expected) in factors.as_array().expect("factors").iter().enumerate() {
            let (factor, expected) = (schedule.factor(step as u64), expected.as_f64().expect("number"));
            assert!(
                (factor - expected).abs() <= 1e-7,
                "{fields} step {step}: {factor}, transformers {expected}"
            );
        }
    }
    assert_eq!(seen.len(), 7, "every kind has a case: {seen:?}");
    assert!(cases.len() > 50);
}

#[test]
fn warmup_ratio_rounds_up_as_transformers_does() {
    for case in golden()["warmups"].as_array().expect("warmups") {
        let (total, ratio) = (case[0].as_u64().expect("total"), case[1].as_f64().expect("ratio"));
        assert_eq!(warmup_steps(total, ratio), case[2].as_u64().expect("steps"), "{total} * {ratio}");
    }
}

/// Trap: a schedule built from the wrong number of steps does not end where it should.
#[test]
fn ends_at_the_end_and_never_leaves_the_unit_interval() {
    let kinds = [
        ScheduleKind::Linear,
        ScheduleKind::Cosine,
        ScheduleKind::CosineWithRestarts,
        ScheduleKind::Polynomial,
        ScheduleKind::WarmupStableDecay,
    ];
    for kind in kinds {
        let schedule = Schedule { kind, warmup_steps: 10, total_steps: 100, ..Schedule::default() };
        assert_eq!((schedule.factor(0), schedule.factor(10)), (0.0, 1.0), "{kind:?}");
        assert!(schedule.factor(100).abs() < 1e-15, "{kind:?}");
        assert!((0..100).all(|s| (0.0..=1.0).contains(&schedule.factor(s))), "{kind:?}");
    }
    // Nothing divides by zero, whatever is asked.
    let all = [kinds.as_slice(), &[ScheduleKind::Constant, ScheduleKind::InverseSqrt]].concat();
    for (kind, (warmup_steps, total_steps)) in
        all.iter().flat_map(|k| [(0, 0), (5, 0), (3, 3)].map(|x| (*k, x)))
    {
        let schedule =
            Schedule { kind, warmup_steps, total_steps, timescale: Some(0), ..Schedule::default() };
        for step in [0, 1, 3, 1000, u64::MAX] {
            assert!(schedule.factor(step).is_finite(), "{kind:?} {warmup_steps} {total_steps} {step}");
        }
    }
}

/// Without `decay_steps` the last tenth decays: 91 steps -> 10 of decay, the first still at the peak.
#[test]
fn stable_decay_takes_a_tenth_unless_told() {
    let schedule = Schedule { kind: ScheduleKind::WarmupStableDecay, total_steps: 91, ..Schedule::default() };
    assert_eq!(schedule.factor(81), 1.0);
    assert!(schedule.factor(82) < 1.0 && schedule.factor(90) > 0.0);
    assert!((schedule.factor(86) - 0.5).abs() < 1e-12, "half the decay is half the cosine");
}
