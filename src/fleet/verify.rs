//! What stands between "the agent says done" and "completed".
//!
//! Rules that hold here:
//!
//! 1. An output that the verifier has not accepted completes no task; the log never sees it.
//! 2. It is not asked about an attempt that is known to be struck. It runs outside every lock, on the worker that ran the attempt, while the attempt still
//!    holds its lease. A panic in it rejects, and is counted.

use super::id::Attempt;
use super::inner::Inner;
use super::signal::{Signal, Word};
use super::task::{Task, TaskError};
use super::wakers::guarded;

/// Checks what an agent says it has done.
///
/// Agents are known to claim success. A verifier looks for itself: it compiles what was written, counts
/// what was to be counted, asks another model. It should not take long: the agent is busy meanwhile.
/// Messages that are told or asked are not verified.
pub trait Verifier<T, O>: Send + Sync {
    /// Whether the output of this attempt is what the task asked for.
    ///
    /// # Errors
    /// The attempt is lost as if the handler had returned the error, but for its kind, which becomes
    /// [`TaskErrorKind::Rejected`](super::TaskErrorKind::Rejected): the task runs again if the error is
    /// retryable and attempts are left.
    fn verify(&self, task: &Task<T>, attempt: Attempt, output: &O) -> Result<(), TaskError>;
}

impl<T, O, F> Verifier<T, O> for F
where
    F: Fn(&Task<T>, Attempt, &O) -> Result<(), TaskError> + Send + Sync,
{
    fn verify(&self, task: &Task<T>, attempt: Attempt, output: &O) -> Result<(), TaskError> {
        self(task, attempt, output)
    }
}

impl<T, O> Inner<T, O> {
    /// What the attempt's result is once it is verified.
    pub(super) fn verified(
        &self,
        task: &Task<T>,
        attempt: Attempt,
        signal: &Signal,
        result: Result<O, TaskError>,
    ) -> Result<O, TaskError> {
        // Of an attempt that was struck nothing is taken, whatever the verifier would say (rule 1 of the signals).
        if signal.is(Word::Revoked) {
            return result;
        }
        let (Some(verifier), Ok(output)) = (&self.verifier, &result) else { return result };
        let verdict = guarded(|| verifier.verify(task, attempt, output));
        let error = match verdict {
            Ok(Ok(())) => return result,
            Ok(Err(error)) => error,
            Err(what) => {
                self.state.lock().counts.other_panics += 1;
                TaskError::retryable(format!("the verifier panicked: {what}"))
            }
        };
        self.state.lock().counts.attempts_rejected += 1;
        self.discard(result);
        Err(error.rejected())
    }
}
