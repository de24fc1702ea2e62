//! Writes the seeds of each target into a folder of its name, below the one that is given.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("name the folder to write to"))?;
    for (target, seeds) in phalanx_fuzz::seeds() {
        fs::create_dir_all(folder.join(target))?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(target).join(format!("golden-{number}")), seed)?;
        }
    }
    Ok(())
}
