//! Agents that are added in waves, so that what they all reach for at first is not overrun.
//!
//! Rules that hold here:
//!
//! 1. A wave is added whole or not at all, and no two waves are closer than the pause between them.
//! 2. What was added before something went wrong stays, and is told together with what went wrong.

use std::future::Future;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::super::{AgentId, AgentSpec, Fleet};
use crate::Error;

/// What came of waves of agents.
#[derive(Debug)]
#[must_use = "the waves may have been ended by an error"]
#[non_exhaustive]
pub struct Waves {
    /// The agents that were added, in order.
    pub spawned: Vec<AgentId>,
    /// What ended the waves before all were there, if something did.
    pub ended_by: Option<Error>,
}

impl Waves {
    /// The agents, if all of them were added.
    ///
    /// # Errors
    /// What ended the waves. The agents that were added before live on.
    pub fn into_result(self) -> Result<Vec<AgentId>, Error> {
        match self.ended_by {
            None => Ok(self.spawned),
            Some(error) => Err(error),
        }
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Adds agents in waves of this size with a pause between two, which this thread waits for.
    ///
    /// The first wave comes at once, and the last one may be smaller. The pause is on the fleet's clock; a
    /// shutdown ends it. No other thread is used. In a handler it keeps a worker waiting.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet};
    /// use std::num::NonZeroUsize;
    /// use std::time::Duration;
    ///
    /// let fleet = Fleet::<(), ()>::builder().build()?;
    /// let size = NonZeroUsize::new(4).ok_or("zero")?;
    /// let waves = fleet.spawn_waves(&AgentSpec::new("crawler"), 10, size, Duration::from_millis(1));
    /// assert_eq!(waves.into_result()?.len(), 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn_waves(
        &self,
        spec: &AgentSpec<T, O>,
        agents: usize,
        size: NonZeroUsize,
        pause: Duration,
    ) -> Waves {
        let mut waves = Waves { spawned: Vec::new(), ended_by: None };
        while self.spawn_wave(spec, agents, size, &mut waves) {
            self.inner().pause(pause);
        }
        waves
    }

    /// Adds agents in waves of this size with a pause between two, which `sleep` makes a future of: that of
    /// the host's runtime.
    ///
    /// The first wave comes at once, and the last one may be smaller. A future that is dropped ends the
    /// waves; the agents that were added live on.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet};
    /// use std::num::NonZeroUsize;
    /// use std::time::Duration;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
    /// let fleet = Fleet::<(), ()>::builder().build()?;
    /// let size = NonZeroUsize::new(4).ok_or("zero")?;
    /// let pause = Duration::from_millis(1);
    /// let spec = AgentSpec::new("crawler");
    /// let waves = fleet.spawn_waves_async(&spec, 10, size, pause, tokio::time::sleep).await;
    /// assert_eq!(waves.into_result()?.len(), 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn spawn_waves_async<S, F>(
        &self,
        spec: &AgentSpec<T, O>,
        agents: usize,
        size: NonZeroUsize,
        pause: Duration,
        mut sleep: S,
    ) -> Waves
    where
        S: FnMut(Duration) -> F,
        F: Future<Output = ()>,
    {
        let mut waves = Waves { spawned: Vec::new(), ended_by: None };
        while self.spawn_wave(spec, agents, size, &mut waves) {
            sleep(pause).await;
        }
        waves
    }

    /// Adds the next wave; whether another one is to follow.
    fn spawn_wave(
        &self,
        spec: &AgentSpec<T, O>,
        agents: usize,
        size: NonZeroUsize,
        waves: &mut Waves,
    ) -> bool {
        let count = size.get().min(agents - waves.spawned.len());
        match self.spawn_batch(spec, count) {
            Ok(wave) => waves.spawned.extend(wave),
            Err(error) => waves.ended_by = Some(error),
        }
        waves.ended_by.is_none() && waves.spawned.len() < agents
    }
}
