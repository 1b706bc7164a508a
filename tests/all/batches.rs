//! Token sets, their cache and packed batches.

use std::fs;
use std::path::Path;

use tempra::data::*;
use tempra::error::Kind;
use tempra::rng::Rng;
use tempra::text::Tokenizer;

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)
}

fn bert() -> Tokenizer {
    Tokenizer::from_dir(&golden("bert"), 1000).unwrap()
}

/// Rows of 1 to 40 words and their classes.
fn some_rows(n: usize) -> (Vec<Row>, Vec<Label>) {
    let mut random = Rng::new(5, "some rows", 0);
    let row = |_| Row {
        text: "the movie was good ".repeat(random.below(10) as usize) + "dog",
        pair: None,
        label: None,
        line: 0,
    };
    ((0..n).map(row).collect(), (0..n).map(|i| Label::Class(i as u32 % 3)).collect())
}

#[test]
fn a_token_set_holds_what_the_tokenizer_gives() {
    let (tokenizer, (mut rows, _)) = (bert(), some_rows(50));
    rows[7].pair = Some("a zyx 東亜".into());
    let set = TokenSet::build(&tokenizer, &rows, vec![], 16, None).unwrap();
    assert_eq!((set.len(), set.cache.clone(), set.lengths().len()), (50, Cache::Off, 50));
    for (i, row) in rows.iter().enumerate() {
        let e = tokenizer.encode(&row.text, row.pair.as_deref(), 16).unwrap();
        assert_eq!(
            (&set.ids[set.range(i)], &set.types[set.range(i)]),
            (e.ids.as_slice(), e.types.as_slice())
        );
        assert_eq!((set.lost[i], set.unknown[i], set.length(i)), (e.lost, e.unknown, e.ids.len()));
    }
    assert!(set.lost.iter().any(|l| *l > 0) && set.unknown[7] > 0);
    let wrong = TokenSet::build(&tokenizer, &rows, vec![Label::Class(0)], 16, None);
    assert_eq!(wrong.unwrap_err().kind(), Kind::Usage);
}

#[test]
fn the_token_cache_is_used_and_never_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (tokenizer, (rows, labels)) = (bert(), some_rows(40));
    let build = |rows: &[Row], max_length| {
        TokenSet::build(&tokenizer, rows, labels[..rows.len()].to_vec(), max_length, Some(dir.path()))
            .unwrap()
    };
    let plain = TokenSet::build(&tokenizer, &rows, labels.clone(), 16, None).unwrap();
    let first = build(&rows, 16);
    let Cache::Written(path) = first.cache.clone() else { panic!("{:?}", first.cache) };
    let second = build(&rows, 16);
    assert_eq!(second.cache, Cache::Read(path.clone()));
    for set in [first, second] {
        assert_eq!(TokenSet { cache: Cache::Off, ..set }, plain);
    }
    // Other rows, another length and another tokenizer have files of their own.
    let mut other = rows.clone();
    other[0].pair = Some(String::new());
    for cache in [build(&rows[1..], 16).cache, build(&rows, 17).cache, build(&other, 16).cache] {
        assert!(matches!(&cache, Cache::Written(p) if *p != path), "{cache:?}");
    }
    let cased = Tokenizer::from_dir(&golden("bert-cased"), 1000).unwrap();
    let cache = TokenSet::build(&cased, &rows, vec![], 16, Some(dir.path())).unwrap().cache;
    assert!(matches!(cache, Cache::Written(_)), "{cache:?}");
    // Any damage shows: every byte of the head and trailer, and some between.
    let whole = fs::read(&path).unwrap();
    let damage = (0..80).chain(whole.len() - 40..whole.len()).chain((80..whole.len()).step_by(501));
    for at in damage {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let set = build(&rows, 16);
        assert_eq!(set.cache, Cache::Written(path.clone()), "byte {at}");
        assert_eq!(set.ids, plain.ids);
    }
    for len in [0, 10, 31, 32, 33, 100, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(build(&rows, 16).cache, Cache::Written(path.clone()), "{len} bytes");
    }
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert!(fs::read_dir(dir.path()).unwrap().all(|f| f.unwrap().path().extension().unwrap() == "tokens"));
    // A folder that cannot be made is said, and nothing else.
    let blocked = TokenSet::build(&tokenizer, &rows, labels.clone(), 16, Some(&path.join("x"))).unwrap();
    assert!(matches!(blocked.cache, Cache::Failed(_)) && blocked.ids == plain.ids);
}

#[test]
fn an_epoch_has_each_example_once() {
    let mut random = Rng::new(11, "lengths", 0);
    for n in [1, 7, 100, 1003] {
        let lengths: Vec<u32> = (0..n).map(|_| 3 + random.below(60)).collect();
        for batch in [BatchSize::Sequences(8), BatchSize::Tokens(130), BatchSize::Tokens(20)] {
            for group_by_length in [false, true] {
                let opts = BatchOptions { batch, group_by_length, drop_last: false };
                let steps = epoch(&lengths, 1, 0, &opts).unwrap();
                let mut all = steps.concat();
                all.sort_unstable();
                assert_eq!(all, (0..n).collect::<Vec<u32>>(), "{opts:?}");
                assert_eq!(steps, epoch(&lengths, 1, 0, &opts).unwrap());
                if n > 100 {
                    assert_ne!(steps, epoch(&lengths, 1, 1, &opts).unwrap());
                    assert_ne!(steps, epoch(&lengths, 2, 0, &opts).unwrap());
                }
                let tokens =
                    |step: &Vec<u32>| step.iter().map(|i| lengths[*i as usize]).sum::<u32>() as usize;
                match batch {
                    BatchSize::Sequences(size) => {
                        assert!(steps[..steps.len() - 1].iter().all(|s| s.len() == size));
                        assert_eq!(steps.last().unwrap().len(), (n as usize - 1) % size + 1);
                    }
                    BatchSize::Tokens(budget) => {
                        assert!(steps.iter().all(|s| s.len() == 1 || tokens(s) <= budget))
                    }
                }
                if n == 1003 {
                    let dropped = epoch(&lengths, 1, 0, &BatchOptions { drop_last: true, ..opts }).unwrap();
                    assert!(steps.starts_with(&dropped) && dropped.len() + 1 >= steps.len());
                }
            }
        }
    }
    let opts = BatchOptions { batch: BatchSize::Sequences(0), group_by_length: false, drop_last: false };
    assert_eq!(epoch(&[3], 0, 0, &opts).unwrap_err().kind(), Kind::Usage);
    let opts = BatchOptions { batch: BatchSize::Sequences(2), drop_last: true, ..opts };
    assert_eq!(epoch(&[3], 0, 0, &opts).unwrap_err().kind(), Kind::Data);
}

#[test]
fn grouping_by_length_saves_padding() {
    let mut random = Rng::new(2, "lengths", 0);
    let lengths: Vec<u32> = (0..2000).map(|_| 3 + random.below(125)).collect();
    let spread = |group_by_length| -> u32 {
        let opts = BatchOptions { batch: BatchSize::Sequences(16), group_by_length, drop_last: false };
        let steps = epoch(&lengths, 1, 0, &opts).unwrap();
        let len = |i: &u32| lengths[*i as usize];
        let range = |s: &Vec<u32>| s.iter().map(len).max().unwrap() - s.iter().map(len).min().unwrap();
        steps.iter().map(range).sum()
    };
    assert!(spread(true) * 10 < spread(false));
    // Not sorted from long to short over the epoch.
    let opts = BatchOptions { batch: BatchSize::Sequences(16), group_by_length: true, drop_last: true };
    let firsts: Vec<u32> =
        epoch(&lengths, 1, 0, &opts).unwrap().iter().map(|s| lengths[s[0] as usize]).collect();
    assert!(!firsts.is_sorted() && !firsts.iter().rev().is_sorted());
}

fn joined(batches: &[Batch]) -> Batch {
    let (mut all, mut classes) = (Batch { cu_seqlens: vec![0], ..Batch::default() }, Vec::new());
    for b in batches {
        assert_eq!((b.first_token as usize, b.first_example as usize), (all.ids.len(), all.examples.len()));
        assert_eq!(b.cu_seqlens[0], 0);
        let base = all.ids.len() as u32;
        all.ids.extend(&b.ids);
        all.types.extend(&b.types);
        all.positions.extend(&b.positions);
        all.cu_seqlens.extend(b.cu_seqlens[1..].iter().map(|c| c + base));
        classes.extend(b.targets.classes());
        all.examples.extend(&b.examples);
    }
    all.targets = Targets::Class(classes);
    all
}

#[test]
fn parts_of_a_step_are_the_step() {
    let (rows, labels) = some_rows(60);
    let set = TokenSet::build(&bert(), &rows, labels, 64, None).unwrap();
    let step: Vec<u32> = (0..37).map(|i| i * 53 % 60).collect();
    let whole = micro_batches(&set, &step, 1, None, 0).unwrap();
    assert_eq!(whole.len(), 1);
    let whole = &whole[0];
    assert_eq!(
        (whole.len(), whole.examples.as_slice(), whole.targets.values().len()),
        (37, step.as_slice(), 0)
    );
    for (k, i) in step.iter().enumerate() {
        let span = whole.cu_seqlens[k] as usize..whole.cu_seqlens[k + 1] as usize;
        assert_eq!(whole.ids[span.clone()], set.ids[set.range(*i as usize)]);
        assert_eq!(whole.positions[span.clone()], (0..span.len() as u32).collect::<Vec<_>>());
        assert_eq!(whole.targets.classes()[k], i % 3);
    }
    assert_eq!(*whole.cu_seqlens.last().unwrap() as usize, whole.ids.len());
    let longest = (0..37).map(|k| set.length(step[k] as usize)).max().unwrap();
    assert_eq!(whole.longest(), longest);
    for accumulation in [1, 2, 3, 8, 37, 50] {
        for max_tokens in [None, Some(1), Some(30), Some(100), Some(10_000)] {
            let parts = micro_batches(&set, &step, accumulation, max_tokens, 0).unwrap();
            assert_eq!(&joined(&parts), whole, "{accumulation} {max_tokens:?}");
            if let Some(max) = max_tokens {
                assert!(parts.iter().all(|b| b.len() == 1 || b.ids.len() <= max));
            } else {
                assert_eq!(parts.len(), accumulation.min(37));
                let counts: Vec<usize> = parts.iter().map(Batch::len).collect();
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            }
        }
    }
    let roberta = &micro_batches(&set, &step, 1, None, 2).unwrap()[0];
    assert!(roberta.positions.iter().zip(&whole.positions).all(|(r, b)| *r == b + 2));
    for e in [
        micro_batches(&set, &[60], 1, None, 0),
        micro_batches(&set, &[0], 0, None, 0),
        micro_batches(&set, &[0], 1, Some(0), 0),
    ] {
        assert_eq!(e.unwrap_err().kind(), Kind::Usage);
    }
}

#[test]
fn evaluation_covers_the_set() {
    let (rows, _) = some_rows(60);
    let labels = (0..60).map(|i| Label::Value(i as f32)).collect();
    let set = TokenSet::build(&bert(), &rows, labels, 64, None).unwrap();
    let batches = eval_batches(&set, 50, 0).unwrap();
    let mut all: Vec<u32> = batches.iter().flat_map(|b| b.examples.clone()).collect();
    let lengths: Vec<usize> = all.iter().map(|i| set.length(*i as usize)).collect();
    assert!(lengths.iter().rev().is_sorted());
    all.sort_unstable();
    assert_eq!(all, (0..60).collect::<Vec<u32>>());
    for b in &batches {
        assert!(b.ids.len() <= 50 || b.len() == 1);
        assert_eq!(b.targets.values(), b.examples.iter().map(|i| *i as f32).collect::<Vec<_>>());
        for (k, i) in b.examples.iter().enumerate() {
            assert_eq!(
                b.ids[b.cu_seqlens[k] as usize..b.cu_seqlens[k + 1] as usize],
                set.ids[set.range(*i as usize)]
            );
        }
    }
    assert_eq!(eval_batches(&set, 0, 0).unwrap_err().kind(), Kind::Usage);
}

/// The tokens that fill up a batch may be longer than its sequences: they ask for no distances, nor make
/// steps of one size differ.
#[test]
fn what_fills_up_a_batch_is_not_its_longest_sequence() {
    let mut batch = Batch { cu_seqlens: vec![0], ..Batch::default() };
    for example in 0..62u32 {
        batch.ids.extend([1; 17]);
        batch.positions.extend(0..17);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.examples.push(example);
    }
    batch.types = vec![0; batch.ids.len()];
    let mut streams = batch.clone();
    batch.fill_up();
    let bounds = batch.cu_seqlens.clone();
    assert!(bounds[63] - bounds[62] > 64, "the filling is the longest: {bounds:?}");
    assert_eq!(batch.longest(), 17);
    // Two streams have as many places as tokens of text.
    let every_third = |tokens: std::ops::Range<usize>| {
        let mut rank = 0;
        let mut next = |t: usize| {
            rank += (t % 3 == 1) as u32;
            if t % 3 == 1 { rank } else { 0 }
        };
        (0..tokens.len()).map(&mut next).collect::<Vec<u32>>()
    };
    tempra::tasks::into_streams(&mut streams, 90, |_, _, tokens| every_third(tokens)).unwrap();
    assert_eq!((streams.longest(), streams.tokens()), (17, 62 * 17));
    streams.fill_up();
    assert_eq!((streams.longest(), streams.order.len()), (17, 3 * streams.ids.len()));
    let device = tempra::device::Device::open("cpu", 1).unwrap();
    for batch in [&batch, &streams] {
        let mut tape = tempra::tape::Tape::evaluate(&device);
        assert_eq!(tempra::tasks::inputs(&mut tape, batch, None).unwrap().longest, 17);
    }
}
