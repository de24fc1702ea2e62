//! Where things are kept when the command line does not say.
//!
//! This program may read the environment; the library never does.

use crate::args::{Options, UsageError, outside};
use std::env;
use std::path::PathBuf;

/// The folder of the index: what `--state` says, or one in the user's cache folder that is named after
/// the tree. It need not exist, and never lies inside the tree.
pub fn state_folder(options: &Options) -> Result<PathBuf, UsageError> {
    if let Some(state) = &options.state {
        return Ok(state.clone());
    }
    let Some(cache) = cache_folder() else {
        let message = "there is no cache folder (XDG_CACHE_HOME, HOME); say --state DIR";
        return Err(UsageError(message.to_owned()));
    };
    let key = blake3::hash(options.root.as_os_str().as_encoded_bytes()).to_hex();
    let state = cache.join("index_repo").join(&key[..16]);
    outside(&state, &options.root, "the default state folder")?;
    Ok(state)
}

fn cache_folder() -> Option<PathBuf> {
    let folder =
        |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache =
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("phalanx"))
}
