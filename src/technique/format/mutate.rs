//! Broken answers for the tests of parsers: random octets, and good answers that were cut, lengthened and changed. The same ones in every
//! run, so that a failure can be had again.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// `count` broken forms of `good` answers.
pub(super) fn all<'a>(good: &'a [&'a [u8]], count: usize) -> impl Iterator<Item = Vec<u8>> + 'a {
    let mut random = SmallRng::seed_from_u64(20_260_520);
    (0..count).map(move |number| {
        if number % 4 == 0 {
            let length = random.random_range(0..300);
            return (0..length).map(|_| random.random()).collect();
        }
        let mut octets = good[number % good.len()].to_vec();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..octets.len().max(1)).min(octets.len().saturating_sub(1));
            match random.random_range(0..4) {
                _ if octets.is_empty() => octets.push(random.random()),
                0 => octets.truncate(at),
                1 => octets[at] = random.random(),
                2 => octets.insert(at, random.random_range(b'0'..=b'9')),
                _ => {
                    let piece = octets[at..].to_vec();
                    octets.extend(piece);
                }
            }
        }
        octets
    })
}
