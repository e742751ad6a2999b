//! Bytes made of other bytes, the same for the same seed.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};

/// Larger inputs find no more, only later.
const BYTES_MAX: usize = 16 << 10;

const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "101",
    "65536",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e400",
    "1e9",
    "nan",
    "0.0000001",
    "16777217",
    "86401",
    "\\u0000",
    "null",
    "[]",
    "\"\"",
];

/// Case number `case` of a run: a seed with a few changes, mostly one that is good and mostly one change.
pub(crate) fn of(seeds: &[(String, Vec<u8>)], seed: u64, case: u64) -> Vec<u8> {
    let mut chance = Chance(Pcg64::seed_from_u64(seed.wrapping_add(case.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
    let good: Vec<_> = seeds.iter().filter(|(name, _)| name.starts_with("good")).collect();
    let mut data = if chance.below(4) > 0 { chance.pick(&good).1.clone() } else { chance.pick(seeds).1.clone() };
    loop {
        change(&mut data, seeds, &mut chance);
        if chance.below(5) < 3 {
            break;
        }
    }
    data.truncate(BYTES_MAX);
    data
}

struct Chance(Pcg64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u64() % (end.max(1) as u64)).expect("below a usize")
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..start + self.below((length - start).min(64) + 1)
    }
}

fn change(data: &mut Vec<u8>, seeds: &[(String, Vec<u8>)], chance: &mut Chance) {
    match chance.below(9) {
        0 | 1 => {
            let at = chance.below(data.len());
            if let Some(byte) = data.get_mut(at) {
                *byte ^= 1 << chance.below(8);
            }
        }
        2 => {
            let at = chance.below(data.len());
            if let Some(byte) = data.get_mut(at) {
                *byte = *chance.pick(&[0x00, 0x01, 0x7f, 0x80, 0xff, b'"', b'\\', b'\n', b'=', b'[', b'{']);
            }
        }
        3 => data.truncate(chance.below(data.len() + 1)),
        4 => drop(data.drain(chance.range(data.len()))),
        5 => {
            // A piece of it once more.
            let piece = data[chance.range(data.len())].to_vec();
            let at = chance.below(data.len() + 1);
            data.splice(at..at, piece);
        }
        6 => {
            // Its beginning, another's end.
            let other = &chance.pick(seeds).1;
            let (keep, from) = (chance.below(data.len() + 1), chance.below(other.len() + 1));
            data.truncate(keep);
            data.extend_from_slice(&other[from..]);
        }
        7 => number(data, chance),
        _ => {
            let width = 1 << chance.below(4);
            let at = chance.below(data.len());
            let filler = *chance.pick(&[0x00, 0x7f, 0x80, 0xff]);
            data.iter_mut().skip(at).take(width).for_each(|byte| *byte = filler);
        }
    }
}

/// Another number in the place of one that is written in digits.
fn number(data: &mut Vec<u8>, chance: &mut Chance) {
    let starts: Vec<usize> = (0..data.len())
        .filter(|at| data[*at].is_ascii_digit() && !(*at > 0 && data[at - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = *chance.pick(&starts);
    let length = data[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    data.splice(start..start + length, chance.pick(NUMBERS).bytes());
}
