//! Weaves mutants into sources, so that one build holds them all, each switched on by its number.
//!
//!     phalanx-mutants FROM TO WITHOUT FILE...
//!
//! reads each FILE below the folder FROM and writes it below TO with its mutants woven in, but for those whose numbers
//! WITHOUT lists (with commas between, or `-`). For each mutant it prints a line, with tabs between: its number, the
//! file, the function, the line and the column where it stands, what it replaces and by what; from which byte to which
//! its own text stands in what was written, and from which to which all that replaces the expression does.
//!
//! 1. A mutant's number depends on the files and their order alone.
//! 2. Only one mutant is on at a time: what stands beside the swap in a mutant's text is the original.
//! 3. With none on, what was written does what the original does: operands are evaluated in the same order, once, and
//!    only where they were; but what is temporary in an expression ends with it.

mod find;
mod weave;

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [from, to, without, files @ ..] = arguments.as_slice() else {
        return Err("expected: FROM TO WITHOUT FILE...".into());
    };
    let without = without.split(',').filter(|number| *number != "-").map(str::parse);
    let without = without.collect::<Result<Vec<u32>, _>>()?;
    let mut first = 1;
    for file in files {
        let source = fs::read_to_string(Path::new(from).join(file))?;
        let found = find::find(&source).map_err(|error| format!("{file}: {error}"))?;
        let woven = weave::weave(&source, &found, first, &without);
        first += u32::try_from(woven.mutants.len())?;
        fs::write(Path::new(to).join(file), &woven.text)?;
        for mutant in &woven.mutants {
            let (before, _) = source.split_at(mutant.at.start);
            let line = before.matches('\n').count() + 1;
            let column = before.len() - before.rfind('\n').map_or(0, |end| end + 1);
            println!(
                "{}\t{file}\t{}\t{line}\t{column}\t{}\t{}\t{}\t{}\t{}\t{}",
                mutant.number,
                mutant.function,
                &source[mutant.at.clone()],
                mutant.new,
                mutant.written.start,
                mutant.written.end,
                mutant.switch.start,
                mutant.switch.end,
            );
        }
    }
    Ok(())
}
