//! Iteration-level scheduling: requests join and leave the running batch at every decoder step.
//!
//! One thread owns the decoder. An iteration takes in what arrived, drops what was cancelled or ran out of
//! time, gives free slots to those who wait longest, feeds one chunk of one prompt (a longer one when nobody
//! else is in work), and makes one batched step for all answers in work. A long prompt therefore delays
//! running answers by one chunk at a time. Images are decoded and encoded on other threads (see [`encode`]),
//! so the decoder never waits for them, and requests without images do not queue behind them.
//!
//! Which tokens may come next in an answer that has a form depends on its last token, and that is known
//! when a step begins: a thread of its own finds out while the decoder computes (see [`masks`]).
//!
//! An answer's tokens do not depend on what else runs: rows of a batch are independent, every answer has its
//! own sampler, and a slot is read only up to its own length.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use crate::decoder::{Decoder, Embedder, Logits};
use crate::generate::{Note, Observer, Stage};
use crate::prompt::Prompter;

pub(crate) mod encode;
pub(crate) mod job;
mod masks;
mod task;
pub(crate) mod turns;
mod watch;

pub(crate) use job::Ready;
pub(crate) use task::Settings;

use job::{PanicGuard, Status};
use task::{Context, Task, internal};

/// What a scheduler is made of.
pub(crate) struct Parts {
    pub(crate) decoder: Box<dyn Decoder>,
    pub(crate) embedder: Arc<Embedder>,
    pub(crate) prompter: Arc<Prompter>,
    pub(crate) settings: Settings,
    pub(crate) shared: Arc<Status>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Closed when nobody can send requests any more.
    pub(crate) inbox: Receiver<Ready>,
}

/// The loop of the thread that owns the decoder.
pub(crate) struct Scheduler {
    decoder: Box<dyn Decoder>,
    embedder: Arc<Embedder>,
    prompter: Arc<Prompter>,
    settings: Settings,
    shared: Arc<Status>,
    observer: Arc<dyn Observer>,
    inbox: Receiver<Ready>,
    /// Ready, and without a slot.
    waiting: VecDeque<Ready>,
    /// With a slot.
    tasks: Vec<Task>,
}

impl Scheduler {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { decoder, embedder, prompter, settings, shared, observer, inbox } = parts;
        let (waiting, tasks) = (VecDeque::new(), Vec::new());
        Self { decoder, embedder, prompter, settings, shared, observer, inbox, waiting, tasks }
    }

    /// Runs until nobody can send requests any more and all of them are done.
    pub(crate) fn run(mut self) {
        // A local, hence dropped before the requests in `self`.
        let _guard = PanicGuard::new(&Arc::clone(&self.shared), "decoder");
        while self.receive() {
            self.drop_ended();
            self.admit();
            let tokens = self.prefill() + self.decode();
            self.drop_ended();
            self.observer.note(Note::Iteration { tokens });
        }
    }

    /// Takes in what arrived; waits when there is nothing else to do. False when nothing can come any more.
    fn receive(&mut self) -> bool {
        if self.tasks.is_empty() && self.waiting.is_empty() {
            let Ok(ready) = self.inbox.recv() else { return false };
            self.waiting.push_back(ready);
        }
        self.waiting.extend(self.inbox.try_iter());
        true
    }

    /// Drops requests that are done, failed, cancelled or out of time, and gives their slots back.
    fn drop_ended(&mut self) {
        self.waiting.retain_mut(|ready| ready.job.goes_on());
        let decoder = self.decoder.as_mut();
        self.tasks.retain_mut(|task| {
            task.finish_if_done();
            let goes_on = task.job.goes_on();
            if !goes_on {
                task.release(decoder);
            }
            goes_on
        });
        self.shared.set_kv_usage(self.decoder.slots().usage());
    }

    /// Gives free slots to those who wait, first come, first served.
    fn admit(&mut self) {
        while !self.waiting.is_empty() {
            let Some(slot) = self.decoder.slots_mut().allocate() else { return };
            let Some(ready) = self.waiting.pop_front() else { return };
            self.tasks.push(Task::new(ready, slot, &self.settings));
        }
    }

    /// Feeds one chunk of the oldest unfinished prompt; returns its tokens.
    fn prefill(&mut self) -> usize {
        let alone = self.tasks.len() == 1 && self.waiting.is_empty();
        let longest = if alone { self.settings.solo_chunk } else { self.settings.prefill_chunk };
        // Prompts that are scored are read token by token: they wait for all that are not.
        let waiting = || self.tasks.iter().enumerate().filter(|(_, task)| task.prefilling());
        let next = waiting().find(|(_, task)| !task.scores_prompt()).or_else(|| waiting().next());
        let Some(task) = next.map(|(at, _)| at).and_then(|at| self.tasks.get_mut(at)) else { return 0 };
        let context = Context {
            embedder: &self.embedder,
            vocabulary: self.prompter.vocabulary(),
            settings: &self.settings,
        };
        match task.prefill(longest, self.decoder.as_mut(), context) {
            Ok((tokens, took)) => {
                if let Some(took) = took {
                    self.observer.note(Note::Stage(&Stage::PREFILL, took));
                }
                tokens
            }
            Err(error) => {
                task.job.fail(error);
                0
            }
        }
    }

    /// One step for every answer in work; returns their number.
    fn decode(&mut self) -> usize {
        let stepping = |task: &Task| !task.job.ended();
        let next = self.tasks.iter().filter(|task| stepping(task)).flat_map(Task::next_tokens);
        let (slots, ids): (Vec<usize>, Vec<u32>) = next.unzip();
        if slots.is_empty() {
            return 0;
        }
        let guides = self.tasks.iter_mut().filter(|task| stepping(task)).flat_map(Task::guides).collect();
        let (embedder, decoder) = (&self.embedder, &mut self.decoder);
        let ((stepped, took), masks) = masks::during(guides, || {
            let started = Instant::now();
            let stepped = embedder.embed(&ids).and_then(|embeds| decoder.step(&slots, &embeds));
            (stepped, started.elapsed())
        });
        self.observer.note(Note::Stage(&Stage::DECODE_STEP, took));
        if let Some(took) = masks {
            self.observer.note(Note::Stage(&Stage::MASKS, took));
        }
        let mut rows = stepped.map_err(internal).map(Vec::into_iter);
        let context = Context {
            embedder: &self.embedder,
            vocabulary: self.prompter.vocabulary(),
            settings: &self.settings,
        };
        for task in self.tasks.iter_mut().filter(|task| stepping(task)) {
            let count = task.next_tokens().count();
            let outcome = match &mut rows {
                _ if count == 0 => continue,
                Ok(rows) => {
                    let mine: Vec<Logits> = rows.take(count).collect();
                    task.accept(&mine, took, self.decoder.as_mut(), context)
                }
                Err(error) => Err(error.clone()),
            };
            if let Err(error) = outcome {
                task.job.fail(error);
            }
        }
        slots.len()
    }
}
