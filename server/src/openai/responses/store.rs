//! Responses that others may go on from: in memory, for a while, within a limit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::chat::{Message, Piece};

/// A kept response.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The conversation with its answer; instructions are not part of it.
    pub messages: Vec<Message>,
    /// The response as it was answered, JSON.
    pub response: String,
}

/// The kept responses, the oldest of which go first.
#[derive(Debug)]
pub struct Store {
    most: usize,
    time_to_live: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<String, (Arc<Stored>, usize)>,
    /// In the order in which they came, with those that were deleted.
    order: VecDeque<(Instant, String)>,
    bytes: usize,
}

impl Store {
    /// Keeps at most so many bytes, each for at most so long. Without bytes or time it keeps none.
    pub fn new(most: usize, time_to_live: Duration) -> Self {
        Self { most, time_to_live, kept: Mutex::default() }
    }

    /// Whether a response to this conversation can be kept: whoever cannot need not be copied.
    pub fn takes(&self, messages: &[Message]) -> bool {
        !self.time_to_live.is_zero() && bytes(messages) <= self.most
    }

    /// Keeps a response, and forgets old ones for it. One that is too large alone is not kept.
    pub fn put(&self, id: &str, stored: Stored) {
        let bytes = stored.bytes();
        if bytes > self.most || self.time_to_live.is_zero() {
            return;
        }
        let mut kept = self.kept();
        kept.forget(self.time_to_live, self.most - bytes);
        kept.bytes += bytes;
        kept.order.push_back((Instant::now(), id.to_owned()));
        kept.by_id.insert(id.to_owned(), (Arc::new(stored), bytes));
    }

    /// A kept response.
    pub fn get(&self, id: &str) -> Option<Arc<Stored>> {
        let mut kept = self.kept();
        kept.forget(self.time_to_live, self.most);
        kept.by_id.get(id).map(|(stored, _)| Arc::clone(stored))
    }

    /// Forgets a response; false where there is none of that id.
    pub fn delete(&self, id: &str) -> bool {
        let mut kept = self.kept();
        kept.forget(self.time_to_live, self.most);
        kept.remove(id)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Forgets what is too old, and the oldest beyond `most` bytes.
    fn forget(&mut self, time_to_live: Duration, most: usize) {
        while let Some((since, id)) = self.order.front() {
            let old = since.elapsed() >= time_to_live;
            if !old && self.bytes <= most && self.by_id.contains_key(id) {
                break;
            }
            let id = id.clone();
            self.order.pop_front();
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some((_, bytes)) = self.by_id.remove(id) else { return false };
        self.bytes -= bytes;
        true
    }
}

impl Stored {
    fn bytes(&self) -> usize {
        bytes(&self.messages) + self.response.len()
    }
}

/// Bytes of memory that a conversation takes, about.
fn bytes(messages: &[Message]) -> usize {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.len(),
        Piece::Image { url, param, .. } => url.len() + param.len(),
    };
    let message = |message: &Message| {
        let content: usize = message.content.iter().map(|one| piece(one) + size_of::<Piece>()).sum();
        // A value of JSON takes several times its text.
        let calls: usize =
            message.calls.iter().map(|call| call.name.len() + 8 * call.arguments.to_string().len()).sum();
        let texts = [&message.reasoning, &message.call_id, &message.name];
        content + calls + texts.into_iter().flatten().map(String::len).sum::<usize>() + size_of::<Message>()
    };
    messages.iter().map(message).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrcoc_runtime::generate::Speaker;

    use super::*;

    fn stored(bytes: usize) -> Stored {
        let text = Piece::Text("x".repeat(bytes));
        Stored { messages: vec![Message::new(Speaker::User, vec![text])], response: String::new() }
    }

    #[test]
    fn the_oldest_go_first_and_what_is_too_large_is_not_kept() {
        let store = Store::new(3000, Duration::from_secs(60));
        for id in ["a", "b", "c"] {
            store.put(id, stored(1000));
        }
        assert!(store.get("a").is_none() && store.get("b").is_some() && store.get("c").is_some());
        store.put("large", stored(4000));
        assert!(store.get("large").is_none() && store.get("b").is_some());
        assert!(store.delete("b") && !store.delete("b") && store.get("b").is_none());
        store.put("d", stored(1000));
        assert!(store.get("c").is_some() && store.get("d").is_some());
        assert_eq!(store.kept().by_id.len(), 2);
    }

    #[test]
    fn none_outlives_its_time() {
        let store = Store::new(3000, Duration::from_millis(20));
        store.put("a", stored(10));
        assert!(store.get("a").is_some());
        std::thread::sleep(Duration::from_millis(25));
        assert!(store.get("a").is_none());
        assert_eq!(store.kept().bytes, 0);
        let none = Store::new(3000, Duration::ZERO);
        none.put("a", stored(10));
        assert!(none.get("a").is_none());
    }
}
