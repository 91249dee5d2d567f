//! "Did you mean …": the nearest of some known words. Not a spelling checker; it stays silent when nothing is near.

/// The candidate that `word` most likely meant: the nearest by edits, or the only one that starts with it.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let mut best: Option<(usize, &str)> = None;
    let mut starting = Vec::new();
    for candidate in candidates {
        let distance = strsim::osa_distance(&word, &candidate.to_lowercase());
        // A third of the letters may be wrong; more and the words are merely two words.
        let allowed = word.chars().count().max(candidate.chars().count()) / 3;
        if distance <= allowed.max(1) && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
        if word.len() > 1 && candidate.starts_with(&word) {
            starting.push(candidate);
        }
    }
    match (best, starting.as_slice()) {
        (Some((_, candidate)), _) => Some(candidate),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_a_slip_and_stays_silent_about_another_word() {
        let words = ["docker", "netns", "pid"];
        assert_eq!(nearest("dokcer", words), Some("docker"));
        assert_eq!(nearest("net", words), Some("netns"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("x", words), None);
    }
}
