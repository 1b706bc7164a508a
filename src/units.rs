//! Numbers as a person reads them: thousands separated, bytes in the unit that fits.

/// A count: `12,300` below a million, `22.7 M` and `1.3 B` (a thousand million) above.
pub fn count(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.1} B", n as f64 / 1e9),
        // From here on the next unit would be shown as 1000.0 M.
        999_950_000.. => "1.0 B".to_owned(),
        1_000_000.. => format!("{:.1} M", n as f64 / 1e6),
        _ => thousands(n),
    }
}

/// A number with a comma before every third digit: `40,775`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A number of bytes in the largest binary unit of which there is at least one: `344 MiB`, `1.5 GiB`,
/// `37 KiB`.
pub fn bytes(n: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| n >> shift > 0) else {
        return format!("{n} bytes");
    };
    let value = n as f64 / (1u64 << shift) as f64;
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A noun with its number: `1 step`, `2 steps`.
pub fn plural(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let counts = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_300, "12,300"),
            (999_999, "999,999"),
            (1_000_000, "1.0 M"),
            (22_713_986, "22.7 M"),
            (999_949_999, "999.9 M"),
            (999_950_000, "1.0 B"),
            (1_340_000_000, "1.3 B"),
        ];
        counts.iter().for_each(|(n, text)| assert_eq!(count(*n), *text));
        let sizes = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 10, "10 KiB"),
            (344 << 20, "344 MiB"),
            (3 << 29, "1.5 GiB"),
            (80 << 30, "80 GiB"),
        ];
        sizes.iter().for_each(|(n, text)| assert_eq!(bytes(*n), *text));
        assert_eq!((plural(1, "step"), plural(1200, "step")), ("1 step".into(), "1,200 steps".into()));
    }
}
