//! How two results are compared, and the only tolerances of the parity tests.

use anyhow::{Result, ensure};

/// One stage in fp32: max |a - b| against max |b|. Kernels differ in the order of summation; over a dozen
/// layers of width 1,024 that stays a hundred times below this, and a real mistake (a forgotten scale, a
/// wrong axis) far above.
pub const STAGE_FP32: f32 = 1e-3;

/// Log-probabilities in fp32, absolute.
pub const LOGPROB_FP32: f32 = 1e-3;

/// max |a - b| / max |b|.
///
/// # Errors
/// When the lengths differ or a value is not finite.
pub fn relative_error(a: &[f32], b: &[f32]) -> Result<f32> {
    ensure!(a.len() == b.len(), "expected {} values, found {}", b.len(), a.len());
    ensure!(a.iter().all(|x| x.is_finite()), "found a value that is not finite");
    let largest = b.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let error = a.iter().zip(b).fold(0.0f32, |error, (a, b)| error.max((a - b).abs()));
    Ok(if largest > 0.0 { error / largest } else { error })
}

/// Fails when `a` is further than [`STAGE_FP32`] from the golden `b`.
///
/// # Errors
/// Naming the tensor and the error.
pub fn assert_stage(name: &str, a: &[f32], b: &[f32]) -> Result<()> {
    let error = relative_error(a, b).map_err(|error| error.context(name.to_owned()))?;
    println!("{name:<40} {error:.1e}");
    ensure!(error <= STAGE_FP32, "{name}: relative error {error:.1e}, at most {STAGE_FP32:.0e} expected");
    Ok(())
}
