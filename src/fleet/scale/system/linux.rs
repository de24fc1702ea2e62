//! The files that are read, where they lie, and what a reading is made of.
//!
//! Rules that hold here:
//!
//! 1. A file that is not there sets no limit; one that cannot be read is an error.
//! 2. At most `LIMIT` bytes of a file are read: what is looked for stands near the beginning.
//! 3. A reading that fails leaves the last one as it was.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SystemReading;
use super::parse::{self, Membership, Ticks};
use crate::{Clock, Error, ErrorKind, Timestamp};

const LIMIT: u64 = 256 * 1024;
/// Some ticks of the kernel, which are 10 ms at most.
const SHORTEST: Duration = Duration::from_millis(50);

/// Reads below a root, which is another one in tests.
#[derive(Debug)]
pub(super) struct Source {
    root: PathBuf,
    clock: Clock,
    last: Option<Sample>,
    cpu: Option<f64>,
    process_cpus: Option<f64>,
}

/// What is counted up, and when that was read.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Timestamp,
    process: Duration,
    machine: Ticks,
}

/// What one control group says about memory.
struct Group {
    used_bytes: u64,
    limit_bytes: u64,
}

impl Source {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), clock: Clock::real(), last: None, cpu: None, process_cpus: None }
    }

    pub(super) fn read(&mut self) -> Result<SystemReading, Error> {
        let at = self.clock.now();
        self.read_at(at, process_time())
    }

    fn read_at(&mut self, at: Timestamp, process: Duration) -> Result<SystemReading, Error> {
        let machine = parse::machine_ticks(&self.must("proc/stat")?)?;
        let status = parse::status(&self.must("proc/self/status")?)?;
        let memory = parse::memory(&self.must("proc/meminfo")?)?;
        let groups = parse::membership(&self.text("proc/self/cgroup")?.unwrap_or_default());

        let mut cpus = status.cpus_allowed as f64;
        let mut share = 1.0 - memory.available_bytes as f64 / memory.total_bytes as f64;
        let mut memory_bytes = memory.total_bytes;
        for limit in self.cpu_limits(&groups)? {
            cpus = cpus.min(limit);
        }
        for group in self.memory_limits(&groups)? {
            // The older control groups write "no limit" as a number greater than any memory.
            if group.limit_bytes <= memory.total_bytes {
                share = share.max(group.used_bytes as f64 / group.limit_bytes.max(1) as f64);
                memory_bytes = memory_bytes.min(group.limit_bytes);
            }
        }

        let sample = Sample { at, process, machine };
        match self.last {
            Some(last) if at - last.at < SHORTEST => {}
            last => {
                if let Some(last) = last {
                    self.compare(&last, &sample, cpus);
                }
                self.last = Some(sample);
            }
        }
        Ok(SystemReading {
            cpu: self.cpu,
            process_cpus: self.process_cpus,
            cpus,
            memory: share.clamp(0.0, 1.0),
            process_memory_bytes: status.resident_bytes,
            memory_bytes,
        })
    }

    fn compare(&mut self, last: &Sample, now: &Sample, cpus: f64) {
        let elapsed = (now.at - last.at).as_secs_f64();
        let used = now.process.saturating_sub(last.process).as_secs_f64() / elapsed;
        let busy = now.machine.busy.saturating_sub(last.machine.busy);
        // Some counts of the kernel go back at times.
        let all = now.machine.all.saturating_sub(last.machine.all).max(busy).max(1);
        self.process_cpus = Some(used);
        self.cpu = Some((used / cpus).max(busy as f64 / all as f64).clamp(0.0, 1.0));
    }

    fn cpu_limits(&self, groups: &Membership) -> Result<Vec<f64>, Error> {
        let mut limits = Vec::new();
        for folder in self.folders(groups.unified.as_deref(), &["", "unified"]) {
            if let Some(text) = self.text(folder.join("cpu.max"))? {
                limits.extend(parse::cpu_max(&text)?);
            }
        }
        for folder in self.folders(groups.cpu.as_deref(), &["cpu", "cpu,cpuacct"]) {
            let quota = self.text(folder.join("cpu.cfs_quota_us"))?;
            let period = self.text(folder.join("cpu.cfs_period_us"))?;
            if let (Some(quota), Some(period)) = (quota, period) {
                limits.extend(parse::cpu_quota(&quota, &period)?);
            }
        }
        Ok(limits)
    }

    fn memory_limits(&self, groups: &Membership) -> Result<Vec<Group>, Error> {
        let mut found = Vec::new();
        for folder in self.folders(groups.unified.as_deref(), &["", "unified"]) {
            let names = ["memory.max", "memory.current", "inactive_file"];
            found.extend(self.group(&folder, names)?);
        }
        for folder in self.folders(groups.memory.as_deref(), &["memory"]) {
            let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
            found.extend(self.group(&folder, names)?);
        }
        Ok(found)
    }

    /// What a group says by these names of its limit, its use, and the line of what can be reclaimed.
    fn group(&self, folder: &Path, names: [&str; 3]) -> Result<Option<Group>, Error> {
        let [limit, used, reclaimable] = names;
        let Some(text) = self.text(folder.join(limit))? else { return Ok(None) };
        let Some(limit_bytes) = parse::bytes(limit, &text)? else { return Ok(None) };
        let Some(text) = self.text(folder.join(used))? else { return Ok(None) };
        let used_bytes = parse::bytes(used, &text)?.unwrap_or(0);
        let stat = self.text(folder.join("memory.stat"))?.unwrap_or_default();
        let reclaimable_bytes = parse::counted(&stat, reclaimable)?;
        Ok(Some(Group { used_bytes: used_bytes.saturating_sub(reclaimable_bytes), limit_bytes }))
    }

    /// The folders of a group and of those around it, below each of these mounts.
    fn folders(&self, group: Option<&str>, mounts: &[&str]) -> Vec<PathBuf> {
        let Some(group) = group else { return Vec::new() };
        let base = Path::new("sys/fs/cgroup");
        let levels = parse::levels(group);
        let below = |mount: &&str| {
            let mount = base.join(mount);
            levels.iter().map(move |level| mount.join(level)).collect::<Vec<_>>()
        };
        mounts.iter().flat_map(below).collect()
    }

    fn must(&self, name: &str) -> Result<String, Error> {
        let missing = || Error::new(ErrorKind::Io, format!("/{name} is not there: is it mounted?"));
        self.text(name)?.ok_or_else(missing)
    }

    fn text(&self, name: impl AsRef<Path>) -> Result<Option<String>, Error> {
        let name = name.as_ref();
        let mut bytes = Vec::new();
        let result = File::open(self.root.join(name))
            .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes));
        match result {
            Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => {
                let message = format!("/{} cannot be read", name.display());
                Err(Error::with_source(ErrorKind::Io, message, error))
            }
        }
    }
}

/// A group may end between opening and reading one of its files, which then says "no such device".
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.kind() == io::ErrorKind::NotADirectory
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    // The kernel keeps both within these ranges.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
