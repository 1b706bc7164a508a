//! What a run takes of a device's memory, found out before anything is allocated there: the training step is
//! run on a device that computes nothing and counts.

use super::objective::Objective;
use super::pass;
use crate::compress::LiveFolder;
use crate::data::{Batch, BatchSize, TokenSet, micro_batches};
use crate::device::{Caps, Meta};
use crate::error::{Error, Result};
use crate::models::{Model, ModelShape, Options};
use crate::optim::{Optimizer, Settings};
use crate::tasks::Task;
use crate::units::{bytes, plural};
use std::fmt;

/// What a run takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Parameters, gradients, the optimizer's states.
    pub parameters: u64,
    /// All of it, with the activations of the largest pass.
    pub total: u64,
    /// The largest tensor that an op reads or writes.
    pub largest: u64,
    /// Tokens of the largest pass.
    pub tokens: usize,
    /// What a teacher takes, which is gone before the model is opened; 0 without one. `total` is at least
    /// that.
    pub teacher: u64,
    /// The parameters of a teacher that runs beside the model; 0 without one.
    pub beside: u64,
}

/// What the memory is for, in words.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passes = bytes(self.total.saturating_sub(self.parameters + self.beside));
        if self.teacher > 0 {
            write!(f, "before training {} for the teacher; then ", bytes(self.teacher))?;
        }
        let beside = match self.beside {
            0 => String::new(),
            taken => format!("{} for the weights of the teacher, ", bytes(taken)),
        };
        write!(
            f,
            "{} for weights, gradients and optimizer states, {beside}{passes} for passes of up to {}",
            bytes(self.parameters),
            plural(self.tokens as u64, "token")
        )
    }
}

/// How a run trains: what the plan needs to know of it.
pub struct Job<'a> {
    /// The model.
    pub model: &'a ModelShape,
    /// How the model is opened.
    pub options: &'a Options,
    /// Labels to loss.
    pub task: &'a dyn Task,
    /// What a pass computes; mostly `task` itself.
    pub objective: &'a dyn Objective,
    /// The teacher that runs beside the model, if there is one.
    pub live: Option<&'a LiveFolder>,
    /// Which of the model's heads it trains.
    pub head: usize,
    /// The training examples.
    pub set: &'a TokenSet,
    /// What a step is made of.
    pub batch: BatchSize,
    /// Passes of a step at least.
    pub accumulation: usize,
    /// Tokens of a pass at most.
    pub max_tokens: usize,
    /// The optimizer.
    pub optimizer: Settings,
    /// Steps that may be queued.
    pub window: usize,
}

impl Job<'_> {
    /// The largest step that can come up, of the longest examples; where passes are independent, the largest
    /// pass of it.
    fn largest(&self, max_tokens: usize) -> Result<Vec<Batch>> {
        let mut order: Vec<u32> = (0..self.set.len() as u32).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(self.set.length(i as usize)));
        let step = match self.batch {
            BatchSize::Sequences(n) => &order[..n.min(order.len())],
            BatchSize::Tokens(most) => {
                let mut sum = 0;
                let fits = order.iter().take_while(|&&i| {
                    sum += self.set.length(i as usize);
                    sum <= most
                });
                &order[..fits.count().max(1).min(order.len())]
            }
        };
        let batches = micro_batches(self.set, step, self.accumulation, Some(max_tokens), 0)?;
        if self.objective.whole_step() {
            return Ok(batches);
        }
        Ok(batches.into_iter().max_by_key(|b| b.ids.len()).into_iter().collect())
    }

    /// What the run takes on a device with these capabilities, with passes of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// Those of the ops' plans.
    pub fn plan(&self, caps: &Caps, max_tokens: usize) -> Result<MemoryPlan> {
        Ok(self.measure(caps, max_tokens)?.0)
    }

    /// The names of the parameters that no loss of the run reaches.
    ///
    /// # Errors
    /// Those of [`plan`](Self::plan).
    pub fn unreached(&self, caps: &Caps) -> Result<Vec<String>> {
        Ok(self.measure(caps, self.max_tokens)?.1)
    }

    /// The plan, and the parameters that a pass does not reach.
    fn measure(&self, caps: &Caps, max_tokens: usize) -> Result<(MemoryPlan, Vec<String>)> {
        let mut batches = self.largest(max_tokens)?;
        let tokens = batches.iter().map(|b| b.ids.len()).max().unwrap_or(0);
        for batch in &mut batches {
            batch.head = self.head;
            if self.objective.reads_outputs() {
                self.task.prepare(batch, (0, 0))?;
            }
            if caps.blocks > 0 {
                // Steps that are captured are padded to few bucket sizes.
                batch.fill_up();
            }
        }
        let meta = Meta::new(caps.clone());
        let device = meta.device();
        let options = Options { training: true, ..self.options.clone() };
        let model = Model::unloaded(&device, self.model, &options)?;
        let mut optimizer = Optimizer::with_window(&device, &model.params, self.optimizer, self.window)?;
        let parameters = meta.usage().reserved;
        let teacher = self.live.map(|folder| folder.unloaded(&device)).transpose()?;
        let beside = meta.usage().reserved - parameters;
        let taught = teacher.as_ref().and_then(|teacher| self.objective.with_teacher(teacher));
        let objective = taught.as_deref().unwrap_or(self.objective);
        let mut unreached = Vec::new();
        for step in 0..2 {
            let (losses, names) = pass::step(&device, &model, objective, &batches, Some((0, step)), 1.0)?;
            unreached = names;
            // A run without any trained parameter is refused after this.
            if step == 1 && model.params.training.is_some() {
                optimizer.step(&device, &model.params, &losses, 0.0)?;
            }
        }
        let all = meta.usage();
        let (total, largest) = (all.reserved, all.largest);
        Ok((MemoryPlan { parameters, total, largest, tokens, teacher: 0, beside }, unreached))
    }

    /// The plan for a device, refused if it tells how much memory it has and that is too little.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) with what would fit; those of [`plan`](Self::plan).
    pub fn check(&self, caps: &Caps) -> Result<MemoryPlan> {
        let plan = self.plan(caps, self.max_tokens)?;
        if plan.largest > caps.binding_bytes {
            return Err(Error::memory(format!("a tensor of this run is too large for {}", caps.name))
                .with_expected(format!("at most {}, the largest buffer that the adapter binds", bytes(caps.binding_bytes)))
                .with_found(format!("{} in passes of {} tokens", bytes(plan.largest), plan.tokens))
                .with_help(
                    "lower train.max_tokens or data.max_length; if that is not enough, choose a smaller model or --device cpu",
                ));
        }
        let free = |bytes: u64| bytes.saturating_sub(caps.taken_bytes);
        let Some((all, there)) = caps.memory_bytes.map(|m| (m, free(m))).filter(|m| plan.total > m.1) else {
            return Ok(plan);
        };
        let refused = Error::memory(format!("the run does not fit into the memory of {}", caps.name))
            .with_expected(format!("at least {}: {plan}", bytes(plan.total)))
            .with_found(match caps.taken_bytes {
                0 => bytes(there),
                taken => format!("{} free of {} ({} in use)", bytes(there), bytes(all), bytes(taken)),
            });
        // Half as many tokens a pass, and again, until it fits or a pass is one example.
        let mut tokens = plan.tokens;
        while tokens > 1 {
            tokens /= 2;
            let smaller = self.plan(caps, tokens)?;
            if smaller.total <= there {
                return Err(refused.with_help(format!(
                    "--set train.max_tokens={tokens} fits ({}) and gives the same steps in more passes",
                    bytes(smaller.total)
                )));
            }
            if smaller.tokens > tokens {
                break;
            }
        }
        Err(refused.with_help("choose a smaller model, lower data.max_length, or use --device cpu"))
    }
}
