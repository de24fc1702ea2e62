//! A set of small numbers whose least is found by looking at three words, however many there are.
//!
//! Rules that hold between any two calls:
//!
//! 1. A bit of a leaf word is set exactly if its number is in the set.
//! 2. A bit of a middle word is set exactly if that leaf word is not zero; a bit of the top word, exactly
//!    if that middle word is not zero.

/// The numbers that a set may hold are below this: three levels of 64.
pub(super) const LIMIT: u32 = 64 * 64 * 64;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Bits {
    top: u64,
    middle: Vec<u64>,
    leaf: Vec<u64>,
}

const fn bit(number: u32) -> u64 {
    1 << (number % 64)
}

impl Bits {
    /// Puts a number in. It grows to hold the greatest it has seen.
    #[inline(always)]
    pub(super) fn insert(&mut self, number: u32) {
        debug_assert!(number < LIMIT, "ranks are below the limit");
        match self.leaf.get_mut(number as usize / 64) {
            // Those above have it marked.
            Some(leaf) if *leaf != 0 => *leaf |= bit(number),
            _ => self.insert_and_mark(number),
        }
    }

    #[inline(never)]
    fn insert_and_mark(&mut self, number: u32) {
        let leaf = number / 64;
        if self.leaf.len() <= leaf as usize {
            self.leaf.resize(leaf as usize + 1, 0);
            self.middle.resize(leaf as usize / 64 + 1, 0);
        }
        self.leaf[leaf as usize] |= bit(number);
        self.middle[leaf as usize / 64] |= bit(leaf);
        self.top |= bit(leaf / 64);
    }

    /// Takes out a number that is in.
    pub(super) fn remove(&mut self, number: u32) {
        let leaf = number / 64;
        self.leaf[leaf as usize] &= !bit(number);
        if self.leaf[leaf as usize] == 0 {
            self.middle[leaf as usize / 64] &= !bit(leaf);
            if self.middle[leaf as usize / 64] == 0 {
                self.top &= !bit(leaf / 64);
            }
        }
    }

    /// The least number that is in.
    pub(super) fn first(&self) -> Option<u32> {
        if self.top == 0 {
            return None;
        }
        let middle = self.top.trailing_zeros();
        let leaf = middle * 64 + self.middle[middle as usize].trailing_zeros();
        Some(leaf * 64 + self.leaf[leaf as usize].trailing_zeros())
    }

    /// The least number that is in and greater than this one.
    pub(super) fn next(&self, number: u32) -> Option<u32> {
        let after = |word: u64, at: u32| word & u64::MAX.checked_shl(at + 1).unwrap_or(0);
        let (leaf, middle) = (number / 64, number / 64 / 64);
        let here = after(*self.leaf.get(leaf as usize)?, number % 64);
        if here != 0 {
            return Some(leaf * 64 + here.trailing_zeros());
        }
        let near = after(self.middle[middle as usize], leaf % 64);
        let middle = if near == 0 { after(self.top, middle).trailing_zeros() } else { middle };
        let word = if near == 0 { *self.middle.get(middle as usize)? } else { near };
        let leaf = middle * 64 + word.trailing_zeros();
        Some(leaf * 64 + self.leaf[leaf as usize].trailing_zeros())
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        for (index, word) in self.leaf.iter().enumerate() {
            let marked = self.middle[index / 64] >> (index % 64) & 1 == 1;
            assert_eq!(marked, *word != 0, "rule 2, leaf {index}");
        }
        for (index, word) in self.middle.iter().enumerate() {
            assert_eq!(self.top >> index & 1 == 1, *word != 0, "rule 2, middle {index}");
        }
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn contains(&self, number: u32) -> bool {
        self.leaf.get(number as usize / 64).is_some_and(|word| word & bit(number) != 0)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_first_of_the_bits_is_the_first_of_a_sorted_set(
            steps in prop::collection::vec((any::<bool>(), 0..18_u32, any::<u32>()), 1..200),
        ) {
            let (mut bits, mut set) = (Bits::default(), BTreeSet::new());
            for (put, width, number) in steps {
                let number = number % (1 << width).min(LIMIT);
                if put {
                    bits.insert(number);
                    set.insert(number);
                } else if let Some(&known) = set.range(number..).next() {
                    bits.remove(known);
                    set.remove(&known);
                }
                bits.validate();
                prop_assert_eq!(bits.first(), set.first().copied());
                prop_assert_eq!(bits.contains(number), set.contains(&number));
                prop_assert_eq!(bits.next(number), set.range(number + 1..).next().copied());
            }
        }
    }

    #[test]
    fn the_greatest_number_below_the_limit_fits() {
        let mut bits = Bits::default();
        bits.insert(LIMIT - 1);
        assert_eq!(bits.first(), Some(LIMIT - 1));
        assert_eq!((bits.next(0), bits.next(LIMIT - 1)), (Some(LIMIT - 1), None));
        bits.remove(LIMIT - 1);
        assert_eq!(bits.first(), None);
    }
}
