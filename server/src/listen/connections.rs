//! Who may stay connected. A listener has a fixed number of places. When all are taken, the connection that
//! has been idle longest gives its place to a new one, then the one whose body has stood still longest. Where
//! everyone is at work, a few reserved places are left, in which only probes are answered: a load balancer
//! must not take a busy server for a dead one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use super::activity::{Activity, Standing};

/// Places for probes.
const RESERVED: usize = 16;

/// A new connection keeps its place this long before it counts as idle: its request is on the way. In a
/// reserved place that is shorter, since there are few.
const GRACE: Duration = Duration::from_millis(250);
const RESERVED_GRACE: Duration = Duration::from_millis(10);

/// Longest time in a reserved place.
const RESERVED_TIME: Duration = Duration::from_secs(5);

/// A request that came in a reserved place and is no probe waits this long for a regular one, and no more
/// than so many wait at once.
const PROMOTION_TIME: Duration = Duration::from_secs(1);
const PROMOTIONS: usize = RESERVED / 2;

/// How often those who wait for a place look again.
const STEP: Duration = Duration::from_millis(25);

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    open: Mutex<Open>,
    freed: Notify,
    promotions: Semaphore,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    regular: HashMap<u64, Arc<Activity>>,
    reserved: HashMap<u64, Arc<Activity>>,
}

impl Connections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: Mutex::default(),
            freed: Notify::new(),
            promotions: Semaphore::new(PROMOTIONS),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. It has to wait only when every regular place is at work and every reserved one
    /// answers a probe.
    pub(super) async fn enter(self: &Arc<Self>, activity: &Arc<Activity>) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_enter(activity) {
                return place;
            }
            // Also who was just accepted is idle after a while.
            let _ = tokio::time::timeout(STEP, freed).await;
        }
    }

    fn try_enter(self: &Arc<Self>, activity: &Arc<Activity>) -> Option<Place> {
        let open = &mut *self.open();
        let places = if make_room(&mut open.regular, self.most, GRACE) {
            &mut open.regular
        } else if make_room(&mut open.reserved, RESERVED, RESERVED_GRACE) {
            &mut open.reserved
        } else {
            return None;
        };
        open.next += 1;
        places.insert(open.next, Arc::clone(activity));
        Some(Place { connections: Arc::clone(self), number: open.next })
    }

    /// Closes the connection that costs the least, if there is one: for a process that has run out of file
    /// descriptors.
    pub(super) fn close_one(&self) {
        let open = &mut *self.open();
        let most = open.regular.len();
        make_room(&mut open.regular, most, Duration::ZERO);
    }
}

/// Whether there is room for one more, if need be in the place of one that is closed for it.
fn make_room(places: &mut HashMap<u64, Arc<Activity>>, most: usize, grace: Duration) -> bool {
    if places.len() < most {
        return true;
    }
    let now = Instant::now();
    let standings = places.iter().map(|(&number, activity)| (activity.standing(now), number));
    let cheapest = standings.filter(|(standing, _)| match standing {
        Standing::Idle(since) => now.saturating_duration_since(*since) >= grace,
        Standing::Stalled(_) => true,
        Standing::Busy => false,
    });
    // Idle ones before stalled ones, and the oldest of each first.
    let Some((standing, number)) = cheapest.min() else { return false };
    if let Some(activity) = places.remove(&number) {
        tracing::debug!(?standing, "a connection is closed for a new one");
        activity.close();
    }
    true
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Place {
    fn reserved(&self) -> bool {
        self.connections.open().reserved.contains_key(&self.number)
    }

    /// Waits for the end of the time in a reserved place; for ever in a regular one.
    pub(super) async fn expired(&self) {
        tokio::time::sleep(RESERVED_TIME).await;
        if !self.reserved() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes a regular place for a request that is no probe. Whether there is one.
    pub(super) async fn promote(&self) -> bool {
        let started = Instant::now();
        if self.try_promote() {
            return true;
        }
        let Ok(_waiting) = self.connections.promotions.try_acquire() else { return false };
        while !self.try_promote() {
            if started.elapsed() >= PROMOTION_TIME {
                return false;
            }
            tokio::time::sleep(STEP).await;
        }
        true
    }

    fn try_promote(&self) -> bool {
        let open = &mut *self.connections.open();
        if !open.reserved.contains_key(&self.number) {
            return true;
        }
        if !make_room(&mut open.regular, self.connections.most, GRACE) {
            return false;
        }
        let activity = open.reserved.remove(&self.number);
        open.regular.extend(activity.map(|activity| (self.number, activity)));
        self.connections.freed.notify_one();
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = &mut *self.connections.open();
        open.regular.remove(&self.number);
        open.reserved.remove(&self.number);
        self.connections.freed.notify_one();
    }
}
