//! Trees to index.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A tree in a folder of its own.
pub(super) struct Tree {
    folder: TempDir,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    /// A package of Python modules: one that all others import, and one chain through them.
    pub(super) fn of_modules(count: usize) -> Self {
        let tree = Self::new();
        tree.write("pkg/__init__.py", "from .common import shared\n");
        tree.write("pkg/common.py", "def shared(x):\n    return x\n");
        for n in 0..count {
            tree.write(&format!("pkg/m{n:03}.py"), module(n));
        }
        tree
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub(super) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
}

/// A module that imports the common one and the one before it.
fn module(n: usize) -> String {
    let mut text = String::from("import os\nfrom pkg.common import shared as common\n");
    if n > 0 {
        text.push_str(&format!("from .m{:03} import work as before\n", n - 1));
    }
    text.push_str("\ndef work(x):\n    return common(x)\n\n");
    for part in 0..10 + n % 7 {
        text.push_str(&format!(
            "class Part{part}:\n    def step(self, value):\n        return common(value + {part})\n\n"
        ));
    }
    text
}
