//! Graphs of the vision side and the time that they take.

use std::time::{Duration, Instant};

use arrcoc_bundle::Bundle;

use crate::error::LoadError;
use crate::generate::{Note, Observer, Stage};
use crate::library::{Cancel, Graph, Library, LibraryError};
use crate::tensor::Tensor;

/// Measures stages, for the caller and for an observer.
pub struct Stages<'a> {
    observer: &'a dyn Observer,
    ran: Vec<(Stage, Duration)>,
    /// Ends graphs early.
    cancel: Cancel,
}

impl<'a> Stages<'a> {
    /// Measures for an observer.
    pub fn new(observer: &'a dyn Observer) -> Self {
        Self { observer, ran: Vec::new(), cancel: Cancel::default() }
    }

    /// The same for graphs that are ended early by `cancel`.
    pub(crate) fn until(observer: &'a dyn Observer, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..Self::new(observer) }
    }

    /// Who is told of what happens.
    pub(crate) fn observer(&self) -> &'a dyn Observer {
        self.observer
    }

    pub(crate) fn time<T, E>(&mut self, stage: &Stage, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        let result = run()?;
        let took = started.elapsed();
        self.observer.note(Note::Stage(stage, took));
        self.ran.push((stage.clone(), took));
        Ok(result)
    }

    /// What ran, in order.
    pub fn into_ran(self) -> Vec<(Stage, Duration)> {
        self.ran
    }
}

/// A graph of a bundle, which is a stage under its own name.
pub(crate) struct Step {
    stage: Stage,
    graph: Box<dyn Graph>,
}

impl Step {
    pub(crate) fn load(bundle: &Bundle, library: &dyn Library, name: &str) -> Result<Self, LoadError> {
        Ok(Self { stage: Stage::graph(name), graph: library.load_from(bundle, name)? })
    }

    /// Runs the graph.
    pub(crate) fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        stages: &mut Stages<'_>,
    ) -> Result<Outputs, LibraryError> {
        let Self { stage, graph } = self;
        let inputs: Vec<_> = inputs.iter().map(|&(name, tensor)| (name, tensor.clone())).collect();
        let cancel = stages.cancel.clone();
        if cancel.is_cancelled() {
            let reason = "nobody waits for it any more".to_owned();
            return Err(LibraryError::Run { graph: stage.name().to_owned(), reason });
        }
        let tensors = stages.time(stage, || graph.run_until(&inputs, &cancel))?;
        Ok(Outputs { graph: stage.name().to_owned(), tensors })
    }
}

/// What a graph returned.
pub(crate) struct Outputs {
    graph: String,
    tensors: Vec<(String, Tensor)>,
}

impl Outputs {
    /// Takes an output by name.
    pub(crate) fn take(&mut self, name: &str) -> Result<Tensor, LibraryError> {
        match self.tensors.iter().position(|(output, _)| output == name) {
            Some(at) => Ok(self.tensors.swap_remove(at).1),
            None => Err(LibraryError::Run {
                graph: self.graph.clone(),
                reason: format!("expected an output `{name}`, found none; export the checkpoint again"),
            }),
        }
    }

    /// Takes an output by name, which must have this shape.
    pub(crate) fn take_shaped(&mut self, name: &str, expected: &[usize]) -> Result<Tensor, LibraryError> {
        let found = self.take(name)?;
        match found.shape() == expected {
            true => Ok(found),
            false => Err(unexpected(&self.graph, name, expected, &found)),
        }
    }
}

/// An output has another shape than the family's contract says.
pub(crate) fn unexpected(graph: &str, output: &str, expected: &[usize], found: &Tensor) -> LibraryError {
    let reason = format!(
        "output `{output}`: expected shape {expected:?} for this picture, found {:?}; export the checkpoint again",
        found.shape()
    );
    LibraryError::Run { graph: graph.to_owned(), reason }
}
