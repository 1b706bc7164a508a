//! Every test but the op harness, in one binary: one file of `tests/all/` a subject.
#[path = "all/bad.rs"]
mod bad;
#[path = "all/batches.rs"]
mod batches;
#[path = "all/bench.rs"]
mod bench;
#[path = "all/bench_compare.rs"]
mod bench_compare;
#[path = "all/bench_counts.rs"]
mod bench_counts;
#[path = "all/bench_edited.rs"]
mod bench_edited;
#[path = "all/bench_csv.rs"]
mod bench_csv;
#[path = "all/bench_page.rs"]
mod bench_page;
#[path = "all/bench_profile.rs"]
mod bench_profile;
#[path = "all/bench_provenance.rs"]
mod bench_provenance;
#[path = "all/bench_signals.rs"]
mod bench_signals;
#[path = "all/bench_shapes.rs"]
mod bench_shapes;
#[path = "all/bench_sweep.rs"]
mod bench_sweep;
#[path = "all/bench_timing.rs"]
mod bench_timing;
#[path = "all/zero_blocks.rs"]
mod zero_blocks;
#[path = "all/build_script.rs"]
mod build_script;
#[path = "all/checkpoint.rs"]
mod checkpoint;
#[path = "all/cli.rs"]
mod cli;
#[path = "all/contrastive.rs"]
mod contrastive;
#[path = "all/cuda.rs"]
mod cuda;
#[path = "all/damage.rs"]
mod damage;
#[path = "all/data.rs"]
mod data;
#[path = "all/decoders.rs"]
mod decoders;
#[path = "all/distill.rs"]
mod distill;
#[path = "all/distill_tasks.rs"]
mod distill_tasks;
#[path = "all/distill_live.rs"]
mod distill_live;
#[path = "all/docs.rs"]
mod docs;
#[path = "all/docs_help.rs"]
mod docs_help;
#[path = "all/docs_run.rs"]
mod docs_run;
#[cfg(target_os = "linux")]
#[path = "all/doctor.rs"]
mod doctor;
#[path = "all/effects.rs"]
mod effects;
#[path = "all/encoders.rs"]
mod encoders;
#[path = "all/events.rs"]
mod events;
#[path = "all/example_weights.rs"]
mod example_weights;
#[path = "all/faults.rs"]
mod faults;
#[path = "all/epilogue_fusion.rs"]
mod epilogue_fusion;
#[path = "all/folders.rs"]
mod folders;
#[path = "all/from_shell.rs"]
mod from_shell;
#[path = "all/frozen.rs"]
mod frozen;
#[path = "all/gradients.rs"]
mod gradients;
#[path = "all/half.rs"]
mod half;
#[path = "all/heads.rs"]
mod heads;
#[cfg(feature = "hub")]
#[path = "all/hub.rs"]
mod hub;
#[path = "all/init.rs"]
mod init;
#[path = "all/init_refuses.rs"]
mod init_refuses;
#[path = "all/init_tasks.rs"]
mod init_tasks;
#[path = "all/invariance.rs"]
mod invariance;
#[path = "all/label_order.rs"]
mod label_order;
#[path = "all/heads_pruned.rs"]
mod heads_pruned;
#[path = "all/layer_shapes.rs"]
mod layer_shapes;
#[path = "all/learner.rs"]
mod learner;
#[path = "all/losses.rs"]
mod losses;
#[path = "all/math.rs"]
mod math;
#[path = "all/matmul_half.rs"]
mod matmul_half;
#[path = "all/memory.rs"]
mod memory;
#[path = "all/metrics.rs"]
mod metrics;
#[path = "all/movement.rs"]
mod movement;
#[path = "all/models.rs"]
mod models;
#[path = "all/no_answer.rs"]
mod no_answer;
#[path = "all/offsets.rs"]
mod offsets;
#[path = "all/named.rs"]
mod named;
#[path = "all/next.rs"]
mod next;
#[path = "all/optim.rs"]
mod optim;
#[path = "all/optimizers.rs"]
mod optimizers;
#[path = "all/pairs.rs"]
mod pairs;
#[path = "all/pareto.rs"]
mod pareto;
#[path = "all/order.rs"]
mod order;
#[path = "all/outcome.rs"]
mod outcome;
#[path = "all/performer.rs"]
mod performer;
#[path = "all/prune.rs"]
mod prune;
#[path = "all/prune_targets.rs"]
mod prune_targets;
#[path = "all/r_drop.rs"]
mod r_drop;
#[path = "all/readers.rs"]
mod readers;
#[path = "all/recipe.rs"]
mod recipe;
#[path = "all/regress.rs"]
mod regress;
#[path = "all/relation.rs"]
mod relation;
#[path = "all/reports.rs"]
mod reports;
#[path = "all/rules.rs"]
mod rules;
#[path = "all/rules_circles.rs"]
mod rules_circles;
#[path = "all/rules_comments.rs"]
mod rules_comments;
#[path = "all/rules_devices.rs"]
mod rules_devices;
#[path = "all/selection.rs"]
mod selection;
#[path = "all/saves.rs"]
mod saves;
#[path = "all/schedule.rs"]
mod schedule;
#[path = "all/schema.rs"]
mod schema;
#[path = "all/scoring.rs"]
mod scoring;
#[path = "all/sentence.rs"]
mod sentence;
#[path = "all/sentence_settings.rs"]
mod sentence_settings;
#[path = "all/session.rs"]
mod session;
#[path = "all/several.rs"]
mod several;
#[path = "all/shrink.rs"]
mod shrink;
#[path = "all/shrink_vocabulary.rs"]
mod shrink_vocabulary;
#[path = "all/soft_losses.rs"]
mod soft_losses;
#[path = "all/spans.rs"]
mod spans;
#[path = "all/streams.rs"]
mod streams;
#[path = "all/summary_metrics.rs"]
mod summary_metrics;
#[path = "all/support.rs"]
mod support;
#[path = "all/tag_formats.rs"]
mod tag_formats;
#[path = "all/tape.rs"]
mod tape;
#[path = "all/tasks.rs"]
mod tasks;
#[path = "all/taps.rs"]
mod taps;
#[path = "all/task_metrics.rs"]
mod task_metrics;
#[path = "all/text.rs"]
mod text;
#[path = "all/tokenizer_settings.rs"]
mod tokenizer_settings;
#[path = "all/train.rs"]
mod train;
#[path = "all/update_rules.rs"]
mod update_rules;
#[path = "all/weights.rs"]
mod weights;
#[path = "all/wgpu.rs"]
mod wgpu;
#[path = "all/xlnet.rs"]
mod xlnet;
