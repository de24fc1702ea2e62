//! CPU and memory of this process and this machine, as the system tells them.
//!
//! Rules that hold here:
//!
//! 1. A figure was read or it is absent; nothing is estimated. What the system says that cannot be
//!    understood is an error that quotes it.
//! 2. Reading and understanding are apart: `parse.rs` is pure, and what it cannot take it refuses.
//! 3. The tightest limit counts, be it the machine's, the mask of allowed processors, or a control group's
//!    of any level.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "linux", test))]
mod parse;

use std::fmt;

use super::Observation;
use crate::Error;
#[cfg(not(target_os = "linux"))]
use crate::ErrorKind;

/// What the system says about CPU and memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SystemReading {
    /// The share of CPU in use since the reading before, in `[0, 1]`: of what this process may use by this
    /// process, or of the machine by everybody, whichever is more. `None` in the first reading.
    pub cpu: Option<f64>,
    /// The processors that this process kept busy since the reading before. `None` in the first reading.
    pub process_cpus: Option<f64>,
    /// The processors that this process may use: a quota may make it a fraction.
    pub cpus: f64,
    /// The share of memory in use, in `[0, 1]`: of the machine or of a control group, whichever is more.
    /// What the system can reclaim at once (the cache of files) is not in use.
    pub memory: f64,
    /// The bytes of memory that this process holds.
    pub process_memory_bytes: u64,
    /// The bytes of memory there are for this process, by the tightest limit.
    pub memory_bytes: u64,
}

impl SystemReading {
    /// Puts the shares of CPU and memory into an observation.
    #[must_use]
    pub fn observe(&self, mut observation: Observation) -> Observation {
        observation.cpu = self.cpu.or(observation.cpu);
        observation.memory = Some(self.memory);
        observation
    }
}

/// Reads CPU and memory from the system; on Linux from `/proc` and the control groups.
///
/// It holds what the last reading said, since the use of CPU is a difference. A reading opens some ten
/// small files, so once a second is often enough. It never waits for anything but the kernel.
///
/// ```
/// use phalanx::fleet::scale::{Observation, SystemReader};
///
/// # #[cfg(target_os = "linux")] {
/// let mut system = SystemReader::new()?;
/// let reading = system.read()?;
/// assert!((0.0..=1.0).contains(&reading.memory));
/// let observation = reading.observe(Observation::new());
/// assert_eq!((observation.memory, observation.cpu), (Some(reading.memory), None));
/// # }
/// # Ok::<(), phalanx::Error>(())
/// ```
pub struct SystemReader {
    #[cfg(target_os = "linux")]
    source: linux::Source,
    #[cfg(not(target_os = "linux"))]
    none: std::convert::Infallible,
}

impl SystemReader {
    /// A reader whose first reading has no use of CPU yet.
    ///
    /// # Errors
    /// `Unsupported` elsewhere than on Linux, and nothing else.
    pub fn new() -> Result<Self, Error> {
        #[cfg(target_os = "linux")]
        {
            Ok(Self { source: linux::Source::new("/") })
        }
        #[cfg(not(target_os = "linux"))]
        Err(Error::new(
            ErrorKind::Unsupported,
            "the use of CPU and memory is read on Linux only: give an observation your own figures",
        ))
    }

    /// Reads once. Two readings within 50 ms tell the same use of CPU, since the kernel counts in ticks.
    ///
    /// # Errors
    /// `Io` if a file cannot be read, `Corrupt` if one does not say what it should. Either leaves the reader
    /// as it was.
    pub fn read(&mut self) -> Result<SystemReading, Error> {
        #[cfg(target_os = "linux")]
        {
            self.source.read()
        }
        #[cfg(not(target_os = "linux"))]
        match self.none {}
    }
}

impl fmt::Debug for SystemReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemReader").finish_non_exhaustive()
    }
}
