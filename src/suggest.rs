//! "Did you mean": the known word nearest to one that is not known.

/// Longest word compared, in characters; what is longer is no slip of the fingers, and the time stays
/// bounded.
const LONGEST: usize = 64;

/// The candidate nearest to `word`, if one is near enough to be meant: at most a third of the word's
/// characters (but at least one, two from five characters on) changed, added, left out or swapped with their
/// neighbour. Case, spaces at the ends and `-` against `_` count nothing; among equals the first candidate
/// wins.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = folded(word)?;
    let limit = (word.len() / 3).max(if word.len() >= 5 { 2 } else { 1 });
    let distances = candidates.into_iter().filter_map(|c| Some((distance(&word, &folded(c)?), c)));
    distances.filter(|(d, _)| *d <= limit).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

fn folded(word: &str) -> Option<Vec<char>> {
    let chars: Vec<char> =
        word.trim().chars().flat_map(char::to_lowercase).map(|c| if c == '-' { '_' } else { c }).collect();
    (!chars.is_empty() && chars.len() <= LONGEST).then_some(chars)
}

/// Optimal string alignment: Levenshtein's distance with the swap of two neighbours as one change.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let mut d = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                d = d.min(before[j - 1] + 1);
            }
            row.push(d);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(a.len())
}
