//! Good answers, broken: cut, lengthened, flipped, with lengths that lie and brackets that never close. The same ones in every run, so that
//! a failure can be had again.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// No broken answer is longer: more than fits into a datagram or a DNS message.
const LONGEST: usize = 70_000;
/// Integers that programs get wrong.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, u64::MAX];
/// Texts that parsers of numbers, lists and escapes get wrong.
const WORDS: [&[u8]; 16] = [
    b"99999999999999999999999999",
    b"-1",
    b"-9223372036854775808",
    b"1e999999999",
    b"0x41",
    b"+7",
    b"\r\n\r\n",
    b"\0",
    b"\x1b[2J\x1b]0;owned\x07",
    b"\\u0000\\ud800",
    b"\xe2\x80\xae\xef\xbb\xbf",
    b"\xff\xfe\xfd",
    b"::ffff:0.0.0.0%eth0",
    b"203.0.113.10.203.0.113.10",
    b"\xc0\x0c\xc0\x0c",
    b"\"}]}]'--<script>",
];
/// What opens something in bencoding, JSON, HTML and DNS names.
const OPENERS: [&[u8]; 8] = [b"l", b"d1:a", b"[", b"{\"ip\":", b"(", b"<a>", b"\x3f", b"\xc0\x00"];

/// Where broken answers come from.
pub struct Mutator(SmallRng);

impl Mutator {
    /// Always the same answers for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Mutator(SmallRng::seed_from_u64(seed))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// Octets without any meaning.
    pub fn noise(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.0.random()).collect()
    }

    /// A broken form of one of `good`.
    pub fn of(&mut self, good: &[Vec<u8>]) -> Vec<u8> {
        let at = self.below(good.len());
        self.broken(&good[at])
    }

    /// A broken form of `good`; now and then something else altogether.
    pub fn broken(&mut self, good: &[u8]) -> Vec<u8> {
        if self.below(16) == 0 {
            return self.noise(600);
        }
        let mut octets = good.to_vec();
        for _ in 0..1 + self.below(4) {
            self.break_once(&mut octets);
            octets.truncate(LONGEST);
        }
        octets
    }

    fn break_once(&mut self, octets: &mut Vec<u8>) {
        let at = self.below(octets.len() + 1);
        let end = (at + 1 + self.below(16)).min(octets.len());
        match self.below(13) {
            0 => octets.truncate(at),
            1 => drop(octets.drain(..at)),
            2 => drop(octets.drain(at..end)),
            3 => octets[at..end].fill(self.0.random()),
            4 => octets[at..end].iter_mut().take(1).for_each(|octet| *octet ^= 1 << self.0.random_range(0..8)),
            5 => insert(octets, at, &[self.0.random()]),
            6 => {
                // A length, of one, two, four or eight octets, in either order.
                let mut number = EDGES[self.below(EDGES.len())].to_be_bytes();
                let width = 1 << self.below(4);
                if self.below(2) == 0 {
                    number.reverse();
                }
                let part = &number[8 - width..];
                octets.iter_mut().skip(at).zip(part).for_each(|(octet, new)| *octet = *new);
            }
            7 => {
                let word = WORDS[self.below(WORDS.len())];
                insert(octets, at, word);
            }
            8 => {
                // A number that stands there as text becomes another.
                let digits = octets.iter().skip(at).take_while(|octet| octet.is_ascii_digit()).count();
                let word = WORDS[self.below(6)];
                octets.splice(at..at + digits, word.iter().copied());
            }
            9 => {
                let piece = octets[at..].to_vec();
                octets.extend(piece);
            }
            10 if self.below(8) == 0 => {
                let opener = OPENERS[self.below(OPENERS.len())].repeat(1 + self.below(4_000));
                insert(octets, at, &opener);
            }
            11 if self.below(8) == 0 => {
                let filler = vec![self.0.random(); self.below(LONGEST)];
                insert(octets, at, &filler);
            }
            _ => octets[at..end].reverse(),
        }
    }
}

fn insert(octets: &mut Vec<u8>, at: usize, new: &[u8]) {
    octets.splice(at..at, new.iter().copied());
}
