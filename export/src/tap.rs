//! An inference library that tells somebody of every run of a graph.
//!
//! The runtime's own pipeline runs on a [`Tap`] as on any library, so whoever wants to see what passes
//! between graphs wires nothing himself: `calibrate` notes what tensors reach, `verify` records a question
//! ([`Recording`]) and replays it on another library.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrcoc_bundle::names::cache;
use arrcoc_runtime::library::{Blocks, BundledGraph, Graph, InPlace, Library, LibraryError};
use arrcoc_runtime::tensor::{ElementType, Tensor};

/// Who is told. Called on the thread that ran the graph, one graph's runs one after the other.
pub trait Listener: Send + Sync {
    /// A graph ran. The outputs that are returned go on to whoever ran it.
    ///
    /// # Errors
    /// [`LibraryError`] where an output is not what the listener was told to expect; the run fails with it.
    fn ran(&self, run: &Run<'_>, outputs: Named) -> Result<Named, LibraryError>;
}

/// Tensors by name, in graph order.
pub type Named = Vec<(String, Tensor)>;

/// A run of a graph.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The graph's name in the bundle.
    pub graph: &'a str,
    /// What it was given: state that earlier runs kept by value, memory that it updates in place not at all.
    pub inputs: &'a [(&'a str, Tensor)],
    /// How long it took.
    pub took: Duration,
}

/// The library.
pub struct Tap<L> {
    library: Box<dyn Library>,
    listener: Arc<L>,
}

impl<L: Listener> Tap<L> {
    /// Tells `listener` of all that `library` runs.
    pub fn new(library: Box<dyn Library>, listener: Arc<L>) -> Self {
        Self { library, listener }
    }
}

impl<L: Listener + 'static> Tap<L> {
    fn wrap(&self, name: &str, graph: Box<dyn Graph>) -> Box<dyn Graph> {
        Box::new(Tapped { name: name.to_owned(), graph, listener: Arc::clone(&self.listener) })
    }
}

impl<L: Listener + 'static> Library for Tap<L> {
    fn describe(&self) -> String {
        self.library.describe()
    }

    fn load(&self, name: &str, model: &Path) -> Result<Box<dyn Graph>, LibraryError> {
        Ok(self.wrap(name, self.library.load(name, model)?))
    }

    fn load_bundled(&self, graph: &BundledGraph<'_>) -> Result<Box<dyn Graph>, LibraryError> {
        Ok(self.wrap(graph.name, self.library.load_bundled(graph)?))
    }
}

/// A graph of the library. What runs keep goes through [`Graph::run`] too, in the host's memory, so that the
/// listener sees it.
struct Tapped<L> {
    name: String,
    graph: Box<dyn Graph>,
    listener: Arc<L>,
}

impl<L: Listener> Tapped<L> {
    fn tell(
        &self,
        inputs: &[(&str, Tensor)],
        started: Instant,
        outputs: Named,
    ) -> Result<Named, LibraryError> {
        self.listener.ran(&Run { graph: &self.name, inputs, took: started.elapsed() }, outputs)
    }
}

impl<L: Listener> Graph for Tapped<L> {
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Named, LibraryError> {
        let started = Instant::now();
        let outputs = self.graph.run(inputs)?;
        self.tell(inputs, started, outputs)
    }

    fn blocks(&self, element: ElementType, count: usize, shape: &[usize]) -> Result<Blocks, LibraryError> {
        self.graph.blocks(element, count, shape)
    }

    fn run_in_place(
        &mut self,
        inputs: &[(&str, Tensor)],
        in_place: &mut [InPlace<'_>],
    ) -> Result<Named, LibraryError> {
        let started = Instant::now();
        let outputs = self.graph.run_in_place(inputs, in_place)?;
        self.tell(inputs, started, outputs)
    }
}

/// A listener that keeps every run. The KV cache is left out: it would be as large as all other tensors
/// together.
#[derive(Debug, Default)]
pub struct Recording(Mutex<Vec<Call>>);

/// A run of a graph, as it was recorded.
#[derive(Debug, Clone)]
pub struct Call {
    /// The graph's name in the bundle.
    pub graph: String,
    /// What it was given.
    pub inputs: Named,
    /// What it made of it.
    pub outputs: Named,
    /// How long it took.
    pub took: Duration,
}

impl Recording {
    /// What was recorded so far, in the order in which runs ended; the recording begins anew.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Listener for Recording {
    fn ran(&self, run: &Run<'_>, outputs: Named) -> Result<Named, LibraryError> {
        let inputs = run.inputs.iter().filter(|(name, _)| !cache::is_past(name));
        let call = Call {
            graph: run.graph.to_owned(),
            inputs: inputs.map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect(),
            outputs: outputs.iter().filter(|(name, _)| !cache::is_present(name)).cloned().collect(),
            took: run.took,
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        Ok(outputs)
    }
}
