//! The memory that all bodies take together while they are read and parsed, and their image files until they
//! are encoded. A hundred clients may send the largest body that is allowed at the same time; they get what
//! there is, one after the other, and who would have to wait long is told to come again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrcoc_runtime::mean_time::MeanTime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::memory;
use crate::pace::Pace;

/// Bodies up to this size are not counted: `limits.connections` bounds them well enough, and small questions
/// go on while large ones wait.
pub(crate) const FREE_BYTES: usize = 64 << 10;

/// What is counted for each byte of a body: the byte, and what becomes of it when it is parsed.
const FACTOR: usize = 2;

/// The unit of counting, so that large budgets are not beyond a semaphore's numbers.
const UNIT: usize = 1 << 10;

/// Longest wait for memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// Retry-After is at most this.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// After a large body, freed memory is given back to the system, at most this often.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(5);

/// The shared budget.
#[derive(Debug)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    /// How many there are.
    all: usize,
    readers: Mutex<Readers>,
    /// How long a counted body holds its memory.
    mean: MeanTime,
    giving_back: AtomicBool,
}

#[derive(Debug, Default)]
struct Readers {
    next: u64,
    /// Bodies that are counted and still arrive.
    counted: HashMap<u64, Reader>,
}

#[derive(Debug)]
struct Reader {
    pace: Pace,
    shed: Arc<Notify>,
}

/// There is no memory for this body for now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exhausted {
    pub(crate) retry_after: Duration,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let all = (bytes / UNIT).min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Arc::new(Self {
            units: Arc::new(Semaphore::new(all)),
            all,
            readers: Mutex::default(),
            mean: MeanTime::default(),
            giving_back: AtomicBool::new(false),
        })
    }

    /// Begins to count a body.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        Held {
            budget: Arc::clone(self),
            large: false,
            permit: None,
            number: None,
            shed: Arc::default(),
            since: Instant::now(),
        }
    }

    /// What is counted now, bytes.
    pub(crate) fn held(&self) -> u64 {
        (self.all.saturating_sub(self.units.available_permits()) * UNIT) as u64
    }

    /// What may still be counted, bytes.
    pub(crate) fn left(&self) -> u64 {
        (self.units.available_permits() * UNIT) as u64
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the bodies that stand still give up what they hold.
    fn shed(&self) {
        let now = Instant::now();
        let readers = self.readers();
        let stalled = readers.counted.values().filter(|reader| reader.pace.slow_since(now).is_some());
        stalled.for_each(|reader| reader.shed.notify_one());
    }

    fn retry_after(&self) -> Duration {
        self.mean.get().clamp(Duration::from_secs(1), LONGEST_RETRY)
    }

    /// Gives freed memory back to the system, once for all large bodies of the next seconds.
    fn give_back_soon(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.giving_back.swap(true, Ordering::SeqCst) {
            return;
        }
        let budget = Arc::clone(self);
        runtime.spawn(async move {
            tokio::time::sleep(GIVE_BACK_AFTER).await;
            budget.giving_back.store(false, Ordering::SeqCst);
            let _ = tokio::task::spawn_blocking(memory::give_back).await;
        });
    }
}

/// What one body holds of the budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    /// Something was counted at some time.
    large: bool,
    permit: Option<OwnedSemaphorePermit>,
    /// Its number among the readers, while it is one.
    number: Option<u64>,
    shed: Arc<Notify>,
    since: Instant,
}

impl Held {
    /// Counts this body as `bytes` long. One of which nothing is counted yet waits a moment where there are
    /// too few.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(crate) async fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if bytes <= FREE_BYTES {
            return Ok(());
        }
        self.count(bytes.saturating_mul(FACTOR)).await?;
        if self.number.is_none() {
            let readers = &mut *self.budget.readers();
            readers.next += 1;
            self.number = Some(readers.next);
            let reader = Reader { pace: Pace::new(Instant::now()), shed: Arc::clone(&self.shed) };
            readers.counted.insert(readers.next, reader);
        }
        Ok(())
    }

    /// What is counted, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.units() * UNIT
    }

    fn units(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Counts `bytes` in all. Whoever needs more than there is gets everything.
    ///
    /// Where there are too few, a request that holds none waits a moment. A request that holds some is
    /// refused at once: two that held a part each and waited for the other's would wait in vain.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(crate) async fn count(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let wanted = bytes.div_ceil(UNIT).min(self.budget.all);
        let units = wanted.saturating_sub(self.units()) as u32;
        if units == 0 {
            return Ok(());
        }
        let all = Arc::clone(&self.budget.units);
        let permit = match Arc::clone(&all).try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) => {
                // While it waits for memory it must not count as stalled.
                self.leave();
                self.budget.shed();
                if self.units() > 0 {
                    return Err(Exhausted { retry_after: self.budget.retry_after() });
                }
                match tokio::time::timeout(PATIENCE, all.acquire_many_owned(units)).await {
                    Ok(Ok(permit)) => permit,
                    _ => return Err(Exhausted { retry_after: self.budget.retry_after() }),
                }
            }
        };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        self.large = true;
        Ok(())
    }

    /// Counts no more than `bytes` from here on.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let surplus = self.units().saturating_sub(bytes.div_ceil(UNIT));
        if let Some(permit) = &mut self.permit {
            drop(permit.split(surplus));
        }
    }

    /// Notes bytes that arrived.
    pub(crate) fn arrived(&self, bytes: usize) {
        let Some(number) = self.number else { return };
        if let Some(reader) = self.budget.readers().counted.get_mut(&number) {
            reader.pace.note(bytes, Instant::now());
        }
    }

    /// Waits until others need the memory more than a body that stands still.
    pub(crate) fn shed(&self) -> impl Future<Output = ()> + use<> {
        let shed = Arc::clone(&self.shed);
        async move { shed.notified().await }
    }

    /// The whole body has arrived: from here on it does not depend on its client.
    pub(crate) fn complete(&mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        if let Some(number) = self.number.take() {
            self.budget.readers().counted.remove(&number);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave();
        if self.large {
            self.budget.mean.record(self.since.elapsed());
            self.budget.give_back_soon();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn bodies_share_the_budget_and_wait_for_each_other() {
        let budget = Budget::new(8 * MIB);
        let mut first = budget.hold();
        first.grow(3 * MIB).await.unwrap();
        let mut second = budget.hold();
        // What is small is not counted.
        second.grow(FREE_BYTES).await.unwrap();
        assert_eq!(second.bytes(), 0);
        let refused = second.grow(2 * MIB).await.unwrap_err();
        assert!(refused.retry_after >= Duration::from_secs(1));
        second.grow(MIB).await.unwrap();
        // Whoever holds some does not wait for more.
        second.grow(2 * MIB).await.unwrap_err();
        drop(second);
        let mut third = budget.hold();
        let (grown, ()) = tokio::join!(third.grow(2 * MIB), async { drop(first) });
        grown.unwrap();
        drop(third);
        assert_eq!(budget.units.available_permits(), 8 * MIB / UNIT);
    }

    #[tokio::test]
    async fn whoever_holds_some_is_refused_at_once() {
        let budget = Budget::new(8 * MIB);
        let (mut first, mut second) = (budget.hold(), budget.hold());
        first.grow(2 * MIB).await.unwrap();
        second.grow(2 * MIB).await.unwrap();
        let begun = Instant::now();
        first.grow(3 * MIB).await.unwrap_err();
        assert!(begun.elapsed() < PATIENCE / 2);
        drop(first);
        second.grow(3 * MIB).await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_stands_still_gives_way() {
        let budget = Budget::new(8 * MIB);
        let mut stalled = budget.hold();
        stalled.grow(3 * MIB).await.unwrap();
        let mut fair = budget.hold();
        fair.grow(MIB).await.unwrap();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        budget.readers().counted.get_mut(&stalled.number.unwrap()).unwrap().pace = Pace::new(long_ago);
        let gives_way = async {
            stalled.shed().await;
            drop(stalled);
        };
        let mut next = budget.hold();
        let (grown, ()) = tokio::join!(next.grow(2 * MIB), gives_way);
        grown.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), fair.shed()).await.is_err());
    }
}
