//! Our own operators, as ONNX Runtime's custom ones (<https://onnxruntime.ai/docs/reference/operators/add-custom-op.html>).
//!
//! A graph defines each of them by a body of standard ones. Where the CPU can run the kernel, it is registered and takes the call; where it
//! cannot, nothing is registered, and ONNX Runtime puts the body in the call's place. One file of a bundle serves both.

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::ort::Error;
use ::ort::operator::{BoxedKernel, ComputeContext, OperatorDomain};
use ::ort::session::builder::SessionBuilder;
use ::ort::value::{DynValue, PrimitiveTensorElementType, ValueRef};
use arrcoc_kernels::{Support, Threads};

mod attention;
mod block_linear;
mod cached_attention;
mod grid_attention;
mod quantized_linear;

/// Domain of our operators in a graph.
const DOMAIN: &str = "arrcoc";
/// Their version.
const VERSION: RangeInclusive<u32> = 1..=1;

/// Registers what this CPU can run.
pub(super) fn register(builder: SessionBuilder) -> Result<SessionBuilder, Error> {
    let support = Support::detect();
    if !support.any() {
        return Ok(builder);
    }
    let mut domain = OperatorDomain::new(DOMAIN)?;
    if support.linear {
        domain = domain.add(quantized_linear::QuantizedLinear::default())?;
        domain = domain.add(block_linear::BlockLinear::default())?;
    }
    if support.attention {
        domain = domain.add(attention::Attention::default())?;
        domain = domain.add(grid_attention::GridAttention::default())?;
    }
    if support.cached_attention {
        domain = domain.add(cached_attention::CachedAttention)?;
    }
    Ok(builder.with_operators(domain)?)
}

/// Memory that the kernels of a session use one after the other.
type Scratch<T> = Arc<Mutex<Vec<T>>>;

fn lock<T>(scratch: &Scratch<T>) -> MutexGuard<'_, Vec<T>> {
    // Nobody relies on what is in it.
    scratch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The session's own threads, in one call.
///
/// Kernels panic when slices do not fit each other. No panic may cross ONNX Runtime, on whatever thread: each is caught where it happens, and the
/// call fails.
struct Pool<'a> {
    context: &'a ComputeContext,
    failed: AtomicBool,
}

// SAFETY: ONNX Runtime runs every number once at most, and returns when all have ended.
unsafe impl Threads for Pool<'_> {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let failed = &self.failed;
        let caught = |number| {
            if catch_unwind(AssertUnwindSafe(|| task(number))).is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        };
        if self.context.par_for(tasks, 0, caught).is_err() {
            failed.store(true, Ordering::Relaxed);
        }
    }
}

/// A kernel whose panics are errors of its call.
fn guarded<'a>(
    compute: impl Fn(&ComputeContext, &Pool) -> Result<(), Error> + Send + Sync + 'a,
) -> BoxedKernel<'a> {
    Box::new(move |context: &ComputeContext| {
        let pool = Pool { context, failed: AtomicBool::new(false) };
        let ended = catch_unwind(AssertUnwindSafe(|| compute(context, &pool)));
        match (ended, pool.failed.load(Ordering::Relaxed)) {
            (Ok(result), false) => result,
            _ => Err(Error::new(
                "a kernel failed; the log says where (`engine.kernels: library` runs without)",
            )),
        }
    })
}

/// An input of a call.
struct Input<'a> {
    name: &'static str,
    value: ValueRef<'a>,
}

impl<'a> Input<'a> {
    /// All inputs of a call, by the names that errors are to use.
    fn all<const N: usize>(
        context: &'a ComputeContext,
        names: [&'static str; N],
    ) -> Result<[Self; N], Error> {
        let input = |(index, name)| {
            let value = context.input(index)?;
            let value = value.ok_or_else(|| Error::new(format!("expected an input `{name}`, found none")))?;
            Ok(Self { name, value })
        };
        let inputs: Vec<Self> = names.into_iter().enumerate().map(input).collect::<Result<_, Error>>()?;
        Ok(inputs.try_into().unwrap_or_else(|_| unreachable!("as many inputs as names")))
    }

    /// Its numbers, and its shape, which must have so many axes.
    fn tensor<T: PrimitiveTensorElementType, const AXES: usize>(
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

    /// Its shape, and the address of its floats: they may be what the call writes, and then nobody may hold on to them.
    fn place<const AXES: usize>(&self) -> Result<([usize; AXES], usize), Error> {
        let (shape, numbers) = self.tensor::<f32, AXES>()?;
        Ok((shape, numbers.as_ptr().addr()))
    }
}

/// What a kernel expects is compared first, so that an error says what was found.
fn check(fits: bool, expected: impl FnOnce() -> String) -> Result<(), Error> {
    if fits { Ok(()) } else { Err(Error::new(expected())) }
}
