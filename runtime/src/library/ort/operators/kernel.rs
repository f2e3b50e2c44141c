//! What all of our operators share: how ONNX Runtime calls one, and what a call has.

use std::ops::{Range, RangeInclusive};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use ::ort::Error;
use ::ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ::ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, ValueRef, ValueRefMut};
use arrcoc_kernels::Threads;

/// Their version.
const VERSION: RangeInclusive<u32> = 1..=1;

/// An operator at one node of a graph.
pub(super) trait Kernel: Sized + Send + Sync + 'static {
    /// What it runs.
    const OPERATOR: arrcoc_kernels::Operator;
    /// As graphs name it.
    const NAME: &'static str;
    /// Its inputs, by the names that errors use.
    const INPUTS: &'static [(&'static str, TensorElementType)];
    /// How many outputs it has, all of 32-bit floats.
    const OUTPUTS: usize = 1;
    /// Memory that the kernels of a session use one after the other.
    type Scratch: Default + Send + 'static;

    /// Reads the node's attributes.
    fn new(node: &KernelContext<'_>) -> Result<Self, Error>;

    /// Compares the shapes, and runs.
    fn compute(&self, call: &Call<'_>, scratch: &mut Self::Scratch) -> Result<(), Error>;
}

/// A [`Kernel`] as ONNX Runtime registers it.
pub(super) struct Custom<K: Kernel> {
    scratch: Arc<Mutex<K::Scratch>>,
}

impl<K: Kernel> Default for Custom<K> {
    fn default() -> Self {
        Self { scratch: Arc::default() }
    }
}

impl<K: Kernel> Operator for Custom<K> {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        K::NAME
    }

    fn versions(&self) -> RangeInclusive<u32> {
        VERSION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        K::INPUTS.iter().map(|(_, element)| OperatorInput::required(*element))
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        (0..K::OUTPUTS).map(|_| OperatorOutput::required(TensorElementType::Float32))
    }

    fn create_kernel<'a>(&self, node: &KernelContext<'a>) -> Result<BoxedKernel<'a>, Error> {
        let (kernel, scratch) = (K::new(node)?, self.scratch.clone());
        Ok(Box::new(move |context: &ComputeContext| {
            // Nobody relies on what is in it.
            let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
            guarded(context, K::INPUTS, |call| kernel.compute(call, &mut scratch))
        }))
    }
}

/// A panic's message goes to standard error, with its place.
const PANICKED: &str = "it panicked; standard error says where";

/// Runs a kernel; a panic of it is an error of the call.
fn guarded(
    context: &ComputeContext,
    inputs: &'static [(&'static str, TensorElementType)],
    compute: impl FnOnce(&Call<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let call = Call { inputs, pool: Pool { context, failure: Failure::default() } };
    let ended = catch_unwind(AssertUnwindSafe(|| compute(&call)));
    let reason = match (ended, call.pool.failure.reason()) {
        (Ok(result), None) => return result,
        (_, Some(reason)) => reason,
        (Err(_), None) => PANICKED.to_owned(),
    };
    Err(Error::new(format!("a kernel of ours failed: {reason} (`engine.kernels: library` runs without)")))
}

/// One call of a kernel.
pub(super) struct Call<'a> {
    inputs: &'static [(&'static str, TensorElementType)],
    pub(super) pool: Pool<'a>,
}

impl<'a> Call<'a> {
    /// All inputs.
    pub(super) fn inputs<const N: usize>(&self) -> Result<[Input<'a>; N], Error> {
        let input = |(index, (name, _)): (usize, &(&'static str, TensorElementType))| {
            let value = self.pool.context.input(index)?;
            let value = value.ok_or_else(|| Error::new(format!("expected an input `{name}`, found none")))?;
            Ok(Input { name, value })
        };
        let inputs: Vec<Input<'a>> =
            self.inputs.iter().enumerate().map(input).collect::<Result<_, Error>>()?;
        Ok(inputs.try_into().unwrap_or_else(|_| unreachable!("as many inputs as the operator has")))
    }

    /// An output, of the shape that it is to have.
    pub(super) fn output<const AXES: usize>(
        &self,
        index: usize,
        shape: [usize; AXES],
    ) -> Result<ValueRefMut<'a>, Error> {
        let output = self.pool.context.output(index, shape)?;
        output.ok_or_else(|| Error::new(format!("expected somebody to read output {index}")))
    }
}

/// The session's own threads, in one call.
///
/// Kernels panic when slices do not fit each other. No panic may cross ONNX Runtime, on whatever thread: each
/// is caught where it happens, and the call fails.
pub(super) struct Pool<'a> {
    context: &'a ComputeContext,
    failure: Failure,
}

/// Why tasks were not run to their end.
#[derive(Default)]
struct Failure(Mutex<Option<String>>);

impl Failure {
    fn note(&self, reason: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    fn reason(self) -> Option<String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: ONNX Runtime runs every number once at most, and returns when all have ended.
unsafe impl Threads for Pool<'_> {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let failure = &self.failure;
        let caught = |number| {
            if catch_unwind(AssertUnwindSafe(|| task(number))).is_err() {
                failure.note(PANICKED.to_owned());
            }
        };
        if let Err(error) = self.context.par_for(tasks, 0, caught) {
            failure.note(error.to_string());
        }
    }
}

/// An input of a call.
pub(super) struct Input<'a> {
    name: &'static str,
    value: ValueRef<'a>,
}

impl Input<'_> {
    /// Its numbers, and its shape, which must have `AXES` axes.
    pub(super) fn tensor<T: PrimitiveTensorElementType, const AXES: usize>(
        &self,
    ) -> Result<([usize; AXES], &[T]), Error> {
        let value: &DynValue = &self.value;
        let (shape, numbers) = value.try_extract_tensor::<T>()?;
        let shape: Vec<usize> = shape.iter().map(|&length| length.unsigned_abs() as usize).collect();
        let shape = shape.try_into().map_err(|found| {
            Error::new(format!("`{}`: expected {AXES} axes, found shape {found:?}", self.name))
        })?;
        Ok((shape, numbers))
    }

    /// Its shape, and where its floats lie: they may be what the call writes, and then nobody may hold on to
    /// them.
    pub(super) fn span<const AXES: usize>(&self) -> Result<([usize; AXES], Span), Error> {
        let (shape, numbers) = self.tensor::<f32, AXES>()?;
        Ok((shape, span(numbers)))
    }
}

/// Addresses of some numbers.
pub(super) type Span = Range<usize>;

pub(super) fn span(numbers: &[f32]) -> Span {
    let Range { start, end } = numbers.as_ptr_range();
    start.addr()..end.addr()
}

/// What a kernel expects is compared first, so that an error says what was found.
pub(super) fn check(fits: bool, expected: impl FnOnce() -> String) -> Result<(), Error> {
    if fits { Ok(()) } else { Err(Error::new(expected())) }
}
