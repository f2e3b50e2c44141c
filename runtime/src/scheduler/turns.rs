//! A queue in which whoever has more than one piece of work takes turns with the others: between two images
//! of one request comes one image of every other request that waits.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Turns of type `T`, shared by workers; newcomers of type `J` arrive through a channel.
pub(crate) struct Turns<J, T> {
    inbox: Mutex<Receiver<J>>,
    waiting: Mutex<VecDeque<T>>,
}

impl<J, T: From<J>> Turns<J, T> {
    pub(super) fn new(inbox: Receiver<J>) -> Self {
        Self { inbox: Mutex::new(inbox), waiting: Mutex::new(VecDeque::new()) }
    }

    /// The next turn, once there is one; `None` when nobody can arrive any more and nobody waits. A worker
    /// that has done a piece of work gives the turn `back`, if there is more to do in it; it comes behind all
    /// who have arrived.
    pub(super) fn next(&self, mut back: Option<T>) -> Option<T> {
        loop {
            let mut waiting = lock(&self.waiting);
            // Whoever holds the inbox waits for newcomers and finds them first.
            if let Ok(inbox) = self.inbox.try_lock() {
                waiting.extend(inbox.try_iter().map(T::from));
            }
            waiting.extend(back.take());
            if let Some(turn) = waiting.pop_front() {
                return Some(turn);
            }
            drop(waiting);
            // A turn that another worker has in work is that worker's to go on with.
            let newcomer = lock(&self.inbox).recv();
            match newcomer {
                Ok(newcomer) => lock(&self.waiting).push_back(newcomer.into()),
                Err(_) if lock(&self.waiting).is_empty() => return None,
                Err(_) => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    /// Name and number of images; then the number of the next one.
    type Request = (char, usize);
    struct Turn(Request, usize);

    impl From<Request> for Turn {
        fn from(request: Request) -> Self {
            Self(request, 0)
        }
    }

    #[test]
    fn a_request_with_many_images_lets_the_others_go_between() {
        let (submit, inbox) = channel();
        let (begun, begins) = channel();
        let (goes_on, may_go_on) = channel::<()>();
        let turns = Arc::new(Turns::<Request, Turn>::new(inbox));
        let worker = thread::spawn(move || {
            let mut back = None;
            while let Some(Turn(request, index)) = turns.next(back.take()) {
                begun.send((request.0, index)).unwrap();
                may_go_on.recv().unwrap();
                back = (index + 1 < request.1).then_some(Turn(request, index + 1));
            }
        });
        submit.send(('a', 4)).unwrap();
        let mut order = vec![begins.recv().unwrap()];
        // The worker is blocked in the first image of `a` while the others arrive.
        submit.send(('b', 1)).unwrap();
        submit.send(('c', 2)).unwrap();
        goes_on.send(()).unwrap();
        order.push(begins.recv().unwrap());
        submit.send(('d', 1)).unwrap();
        drop(submit);
        for _ in 0..6 {
            goes_on.send(()).unwrap();
            order.push(begins.recv().unwrap());
        }
        goes_on.send(()).unwrap();
        worker.join().unwrap();
        let expected = [('a', 0), ('b', 0), ('c', 0), ('a', 1), ('d', 0), ('c', 1), ('a', 2), ('a', 3)];
        assert_eq!(order, expected);
    }

    #[test]
    fn two_workers_do_everything_once_and_end() {
        let (submit, inbox) = channel();
        let (done, results) = channel();
        let turns = Arc::new(Turns::<Request, Turn>::new(inbox));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (turns, done) = (Arc::clone(&turns), done.clone());
                thread::spawn(move || {
                    let mut back = None;
                    while let Some(Turn(request, index)) = turns.next(back.take()) {
                        done.send((request.0, index)).unwrap();
                        back = (index + 1 < request.1).then_some(Turn(request, index + 1));
                    }
                })
            })
            .collect();
        let names = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
        for (images, name) in names.into_iter().enumerate() {
            submit.send((name, images + 1)).unwrap();
        }
        drop((submit, done));
        let mut found: Vec<_> = results.iter().collect();
        for worker in workers {
            worker.join().unwrap();
        }
        // Images of one request come in their order.
        for name in names {
            assert!(found.iter().filter(|(other, _)| *other == name).is_sorted());
        }
        found.sort_unstable();
        let expected: Vec<_> =
            names.into_iter().enumerate().flat_map(|(n, name)| (0..=n).map(move |i| (name, i))).collect();
        assert_eq!(found, expected);
    }
}
