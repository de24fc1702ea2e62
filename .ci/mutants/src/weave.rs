//! A source with its mutants in it.
//!
//! 1. `a < b` with two mutants becomes `(if on(1) { a <= b } else if on(2) { a >= b } else { a < b })`, where only the
//!    last branch holds the mutants of `a` and `b`: they are off in the others, and the text stays short.

use crate::find::{Place, Swap};
use std::ops::Range;

pub(crate) struct Woven {
    pub(crate) text: String,
    pub(crate) mutants: Vec<Mutant>,
}

pub(crate) struct Mutant {
    pub(crate) number: u32,
    /// The function that it is in.
    pub(crate) function: String,
    /// What it replaces in the original, and by what.
    pub(crate) at: Range<usize>,
    pub(crate) new: &'static str,
    /// Where its own text stands in what was written; empty if it was left out.
    pub(crate) written: Range<usize>,
    /// Where all that replaces the expression stands there.
    pub(crate) switch: Range<usize>,
}

/// Weaves all that was found into a source, numbered from `first`, but for those whose numbers are in `without`.
pub(crate) fn weave(source: &str, places: &[Place], first: u32, without: &[u32]) -> Woven {
    let woven = Woven { text: String::with_capacity(source.len() * 2), mutants: Vec::new() };
    let mut weaver = Weaver { source, places, without, next: first, place: 0, woven };
    weaver.emit(0..source.len());
    weaver.woven
}

struct Weaver<'a> {
    source: &'a str,
    places: &'a [Place],
    without: &'a [u32],
    next: u32,
    place: usize,
    woven: Woven,
}

impl Weaver<'_> {
    /// Writes a part of the source with the places that are whole inside.
    fn emit(&mut self, range: Range<usize>) {
        let places = self.places;
        let mut from = range.start;
        while let Some(place) = places.get(self.place)
            && place.range.end <= range.end
        {
            self.place += 1;
            self.woven.text += &self.source[from..place.range.start];
            self.switch(place);
            from = place.range.end;
        }
        self.woven.text += &self.source[from..range.end];
    }

    fn switch(&mut self, place: &Place) {
        let (start, first) = (self.woven.text.len(), self.woven.mutants.len());
        let mut open = false;
        for swap in &place.swaps {
            let number = self.next;
            self.next += 1;
            let mut written = 0..0;
            if !self.without.contains(&number) {
                self.woven.text += if open { "" } else { "(" };
                open = true;
                self.woven.text += &format!("if crate::mutant::on({number}) {{ ");
                written = self.mutated(place, swap);
                self.woven.text += " } else ";
            }
            let (function, at) = (place.function.clone(), swap.at.clone());
            let mutant = Mutant { number, function, at, new: swap.new, written, switch: 0..0 };
            self.woven.mutants.push(mutant);
        }
        let last = self.woven.mutants.len();
        self.woven.text += if open { "{ " } else { "" };
        // With the places inside of it.
        self.emit(place.range.clone());
        self.woven.text += if open { " })" } else { "" };
        for mutant in &mut self.woven.mutants[first..last] {
            mutant.switch = start..self.woven.text.len();
        }
    }

    fn mutated(&mut self, place: &Place, swap: &Swap) -> Range<usize> {
        let start = self.woven.text.len();
        self.woven.text += &self.source[place.range.start..swap.at.start];
        self.woven.text += swap.new;
        self.woven.text += &self.source[swap.at.end..place.range.end];
        start..self.woven.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::find;

    fn woven(source: &str, without: &[u32]) -> Woven {
        weave(source, &find(source).expect("the source is Rust"), 1, without)
    }

    /// What the body becomes, with `on` in short.
    fn body(source: &str, without: &[u32]) -> String {
        let text = woven(&format!("fn f() {{ {source} }}"), without)
            .text
            .replace("crate::mutant::on", "on");
        text["fn f() { ".len()..text.len() - 2].to_owned()
    }

    #[test]
    fn a_mutant_stands_before_the_original() {
        assert_eq!(body("a == b", &[]), "(if on(1) { a != b } else { a == b })");
        let both = "(if on(1) { a <= b } else if on(2) { a >= b } else { a < b })";
        assert_eq!(body("a < b", &[]), both);
        assert_eq!(body("x(a < b);", &[]), format!("x({both});"));
    }

    #[test]
    fn inner_mutants_stand_in_the_last_branch_alone() {
        assert_eq!(
            body("a + 1 == b.max(c)", &[]),
            "(if on(1) { a + 1 != b.max(c) } else { \
             (if on(2) { a + 0 } else { a + 1 }) == (if on(3) { b.min(c) } else { b.max(c) }) })"
        );
    }

    #[test]
    fn what_is_left_out_keeps_its_number() {
        assert_eq!(body("a < b", &[1]), "(if on(2) { a >= b } else { a < b })");
        assert_eq!(body("a < b", &[1, 2]), "a < b");
        let woven = woven("fn f() { a == b; c == d; }", &[1]);
        assert_eq!(woven.mutants.iter().map(|mutant| mutant.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(&woven.text[woven.mutants[1].written.clone()], "c != d");
        assert!(woven.mutants[0].written.is_empty());
    }
}
