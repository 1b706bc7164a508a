//! Porter's stemmer with NLTK's extensions, which rouge-score stems with.
//!
//! Porter, "An algorithm for suffix stripping" (1980); behaviour matched: `nltk.stem.PorterStemmer()` of NLTK
//! 3.9, whose default mode adds irregular words and a few rules. Snowball's English stemmer is another
//! algorithm.

/// The stem of a word of ASCII lower-case letters and digits.
pub(super) fn stem(word: &str) -> String {
    let irregular = match word {
        "skies" => "sky",
        "dying" => "die",
        "lying" => "lie",
        "tying" => "tie",
        "innings" => "inning",
        "outings" => "outing",
        "cannings" => "canning",
        "sky" | "news" | "inning" | "outing" | "canning" | "howe" | "proceed" | "exceed" | "succeed" => word,
        _ => "",
    };
    if !irregular.is_empty() {
        return irregular.to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let word = plural(word);
    let word = past(&word);
    let word = match word.strip_suffix('y') {
        Some(s) if s.len() > 1 && consonants(s).last() == Some(&true) => format!("{s}i"),
        _ => word,
    };
    let word = step2(&word);
    let word = rules(&word, STEP3, |s| measure(s) > 0);
    let word = rules(&word, STEP4, |s| measure(s) > 1);
    let word = match word.strip_suffix('e') {
        Some(s) if measure(s) > 1 || (measure(s) == 1 && !ends_cvc(s)) => s.to_owned(),
        _ => word,
    };
    match word.strip_suffix('l') {
        Some(s) if s.ends_with('l') && measure(s) > 1 => s.to_owned(),
        _ => word,
    }
}

/// Whether each letter is a consonant: no a, e, i, o, u, and no y behind a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags = Vec::with_capacity(word.len());
    for c in word.bytes() {
        flags.push(match c {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|before: &bool| !before),
            _ => true,
        });
    }
    flags
}

/// How often a consonant follows a vowel: m of [C](VC){m}[V].
fn measure(word: &str) -> usize {
    let flags = consonants(word);
    flags.iter().zip(flags.iter().skip(1)).filter(|(a, b)| !**a && **b).count()
}

fn has_vowel(word: &str) -> bool {
    consonants(word).contains(&false)
}

/// The letter of a double consonant at the end.
fn double(word: &str) -> Option<char> {
    let mut last = word.chars().rev();
    let (a, b) = (last.next()?, last.next()?);
    (a == b && consonants(word).last() == Some(&true)).then_some(a)
}

/// Consonant, vowel, consonant at the end, the last no w, x or y; or NLTK's two letters, vowel and consonant.
fn ends_cvc(word: &str) -> bool {
    match consonants(word).as_slice() {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

fn plural(word: &str) -> String {
    let cut = |n: usize| word.get(..word.len() - n).unwrap_or_default().to_owned();
    if word.ends_with("sses") || (word.ends_with("ies") && word.len() != 4) {
        cut(2)
    } else if word.ends_with("ies") || (word.ends_with('s') && !word.ends_with("ss")) {
        cut(1)
    } else {
        word.to_owned()
    }
}

fn past(word: &str) -> String {
    if let Some(s) = word.strip_suffix("ied") {
        return format!("{s}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(s) = word.strip_suffix("eed") {
        return if measure(s) > 0 { format!("{s}ee") } else { word.to_owned() };
    }
    let cut = |suffix| word.strip_suffix(suffix).filter(|s| has_vowel(s));
    let Some(s) = cut("ed").or_else(|| cut("ing")) else { return word.to_owned() };
    match double(s) {
        _ if ["at", "bl", "iz"].iter().any(|end| s.ends_with(end)) => format!("{s}e"),
        Some('l' | 's' | 'z') => s.to_owned(),
        Some(_) => s.get(..s.len() - 1).unwrap_or_default().to_owned(),
        None if measure(s) == 1 && ends_cvc(s) => format!("{s}e"),
        None => s.to_owned(),
    }
}

fn step2(word: &str) -> String {
    // "logi" looks at the word with its l.
    let step = |s: &str| {
        let with_l = word.strip_suffix("ogi").filter(|w| w.ends_with('l'));
        measure(with_l.unwrap_or(s)) > 0
    };
    match word.strip_suffix("alli") {
        Some(s) if measure(s) > 0 => step2(&format!("{s}al")),
        _ => rules(word, STEP2, step),
    }
}

/// Applies the first rule whose ending the word has, if its condition holds of what is before the ending.
fn rules(word: &str, rules: &[(&str, &str)], holds: impl Fn(&str) -> bool) -> String {
    let found = rules.iter().find_map(|(end, new)| Some((word.strip_suffix(end)?, *end, *new)));
    match found {
        Some((s, end, new)) if holds(s) && (end != "ion" || s.ends_with(['s', 't'])) => format!("{s}{new}"),
        _ => word.to_owned(),
    }
}

#[rustfmt::skip]
const STEP2: &[(&str, &str)] = &[
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"),
    ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate"),
    ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"),
    ("biliti", "ble"), ("fulli", "ful"), ("logi", "log"),
];
#[rustfmt::skip]
const STEP3: &[(&str, &str)] = &[
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""),
];
#[rustfmt::skip]
const STEP4: &[(&str, &str)] = &[
    ("al", ""), ("ance", ""), ("ence", ""), ("er", ""), ("ic", ""), ("able", ""), ("ible", ""), ("ant", ""), ("ement", ""),
    ("ment", ""), ("ent", ""), ("ion", ""), ("ou", ""), ("ism", ""), ("ate", ""), ("iti", ""), ("ous", ""), ("ive", ""),
    ("ize", ""),
];

#[cfg(test)]
mod tests {
    #[test]
    fn stems_equal_nltk() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/task_metrics.json")).expect("golden file");
        let stems = golden["stems"].as_array().expect("array");
        assert!(stems.len() > 900, "{}", stems.len());
        for pair in stems {
            assert_eq!(
                super::stem(pair[0].as_str().expect("a word")),
                pair[1].as_str().expect("a stem"),
                "{pair}"
            );
        }
    }
}
