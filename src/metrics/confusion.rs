//! The confusion matrix as text for a terminal.

use super::Classification;
use std::fmt;

/// Up to this many classes the matrix is drawn; above it the most confused pairs are listed.
const DRAWN: usize = 12;
/// Pairs listed above that.
const LISTED: usize = 15;
/// Characters of a class name.
const NAME: usize = 24;

/// Shows a [`Classification`]: a row a target class, a column a prediction, the scores of each class beside
/// it.
#[derive(Clone, Copy, Debug)]
pub struct ConfusionTable<'a> {
    pub(super) of: &'a Classification,
    pub(super) names: &'a [String],
}

impl ConfusionTable<'_> {
    /// The name, cut to fit; control characters, which could steer the terminal, become `?`.
    fn name(&self, class: usize) -> String {
        let name = self.names.get(class).cloned().unwrap_or_default();
        let clean: Vec<char> = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        match clean.get(..NAME - 1) {
            Some(start) if clean.len() > NAME => start.iter().collect::<String>() + "…",
            _ => clean.into_iter().collect(),
        }
    }
}

impl fmt::Display for ConfusionTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = self.of.classes();
        let drawn = classes <= DRAWN;
        let names: Vec<String> = (0..classes).map(|k| self.name(k)).collect();
        let name = names.iter().map(|n| n.chars().count()).max().unwrap_or(0).max("target".len());
        let digits = classes.saturating_sub(1).to_string().len();
        let most = self.of.pairs().map(|(.., n)| n).max().unwrap_or(0);
        let cell = most.to_string().len().max(digits);
        if drawn {
            writeln!(f, "rows: target, columns: prediction")?;
        }
        write!(f, "{:digits$}  {:<name$}", "", "target")?;
        if drawn {
            write!(f, "  ")?;
            for p in 0..classes {
                write!(f, " {p:>cell$}")?;
            }
        }
        writeln!(f, "   precision  recall      f1  support")?;
        for (t, c) in self.of.per_class().iter().enumerate() {
            let label = names.get(t).map_or("", String::as_str);
            write!(f, "{t:>digits$}  {label:<name$}")?;
            if drawn {
                write!(f, " |")?;
                for p in 0..classes {
                    // A dot for nothing lets the eye find what is confused.
                    match self.of.count(t, p) {
                        0 => write!(f, " {:>cell$}", ".")?,
                        n => write!(f, " {n:>cell$}")?,
                    }
                }
                write!(f, " |")?;
            } else {
                write!(f, "  ")?;
            }
            writeln!(f, " {:>9.4}  {:>6.4}  {:>6.4}  {:>7}", c.precision, c.recall, c.f1, c.support)?;
        }
        if drawn { Ok(()) } else { self.pairs(f, &names) }
    }
}

impl ConfusionTable<'_> {
    fn pairs(&self, f: &mut fmt::Formatter<'_>, names: &[String]) -> fmt::Result {
        let mut pairs: Vec<_> = self.of.pairs().filter(|(t, p, _)| t != p).collect();
        pairs.sort_by_key(|&(t, p, n)| (std::cmp::Reverse(n), t, p));
        writeln!(f, "most confused (target -> prediction):")?;
        for (t, p, n) in pairs.iter().take(LISTED) {
            let name = |k: usize| names.get(k).map_or("", String::as_str);
            writeln!(f, "{n:>8}  {t} {} -> {p} {}", name(*t), name(*p))?;
        }
        match pairs.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => writeln!(f, "          and {more} more pairs"),
        }
    }
}
