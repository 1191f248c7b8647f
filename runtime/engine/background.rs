//! What makes a loaded model faster, or finds it invalid: work that can wait, beside the first answers.
//!
//! Nothing here changes a token. The weights change over to their re-packed form from one matrix product to the next.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::kernels::Variant;
use crate::machine::limits::Limits;
use crate::model::{CoarseHead, InvalidModel, Model, Packing, RepackError};

/// Makes the model as fast as it gets, and checks what opening it did not: that every weight is ternary.
///
/// Reads the whole file once. `other_bytes` is the memory that others need: without room beside that, or with `repack` off, the
/// weights stay as they are.
pub fn prepare(
    model: &Model,
    kernels: &Variant,
    repack: bool,
    other_bytes: u64,
    cancel: &AtomicBool,
) -> Result<(), InvalidModel> {
    let packing = kernels.packing().filter(|_| repack);
    let body_bytes = packing.map_or(0, |packing| model.repacked_bytes(packing) as u64);
    let packing = packing.filter(|_| fits("re-packing", body_bytes + other_bytes));
    match packing {
        Some(packing) => self::repack(model, kernels, packing, cancel)?,
        None => validate(model)?,
    }
    let body_bytes = packing.map_or(0, |_| body_bytes);
    let head_bytes = CoarseHead::bytes_for(&model.embedding) as u64;
    if repack && fits("coding the output head", head_bytes + body_bytes + other_bytes) {
        code_head(model, cancel);
    }
    Ok(())
}

fn repack(model: &Model, kernels: &Variant, packing: Packing, cancel: &AtomicBool) -> Result<(), InvalidModel> {
    let began = Instant::now();
    match model.repack(packing, cancel) {
        Ok(()) => {
            let bytes = model.repacked_bytes(packing);
            tracing::info!(
                mib = bytes >> 20,
                ms = began.elapsed().as_millis() as u64,
                "weights re-packed for {}",
                kernels.name
            );
            Ok(())
        }
        Err(RepackError::Invalid(reason)) => Err(reason),
        Err(error @ RepackError::Memory(_)) => {
            tracing::warn!("going on with the weights as the file has them: {error}");
            validate(model)
        }
    }
}

fn code_head(model: &Model, cancel: &AtomicBool) {
    let began = Instant::now();
    match model.code_head(cancel) {
        Ok(()) => tracing::info!(
            mib = CoarseHead::bytes_for(&model.embedding) >> 20,
            ms = began.elapsed().as_millis() as u64,
            "output head coded in int8: the same tokens for half of the bytes"
        ),
        Err(reason) => tracing::info!("the output head is read as the file has it: {reason}"),
    }
}

/// On one thread: the others belong to the answers.
fn validate(model: &Model) -> Result<(), InvalidModel> {
    match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(one) => one.install(|| model.validate_codes()),
        Err(_) => model.validate_codes(),
    }
}

/// Whether there is memory for `bytes`. The file's own pages do not count: the system can drop them.
fn fits(what: &str, bytes: u64) -> bool {
    /// Buffers of a pass, stacks, the allocator's waste.
    const SLACK: u64 = 64 << 20;
    let need = bytes + SLACK;
    match Limits::read().memory_bytes {
        Some(limit) if need > limit => {
            tracing::info!(
                "weights stay as the file has them: {what} needs {} MiB in all, and {} MiB of memory may be used",
                need >> 20,
                limit >> 20
            );
            false
        }
        _ => true,
    }
}
