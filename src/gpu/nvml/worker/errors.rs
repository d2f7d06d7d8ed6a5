//! What NVML's errors mean.

use super::super::wire::{Failure, FailureKind};
use super::{shown, sysfs};
use crate::domain::gpu::{DriverState, GpuHealth};
use nvml_wrapper::error::NvmlError;
use std::ffi::OsStr;
use std::path::Path;

/// Why the library cannot be opened.
pub(super) fn of_open(name: &OsStr, root: &Path, error: &NvmlError) -> Failure {
    let library = shown(name);
    let (state, sentence) = match error {
        NvmlError::LibloadingError(error) => {
            (DriverState::NoLibrary, format!("the driver's library {library} cannot be loaded: {}", chain(error)))
        }
        NvmlError::LibraryNotFound | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_) => {
            (DriverState::NoLibrary, format!("the driver's library {library} is not complete: {error}"))
        }
        NvmlError::DriverNotLoaded => {
            let sentence =
                "the kernel module of the NVIDIA driver is not loaded: 'modprobe nvidia' or a reboot helps";
            (DriverState::DriverNotLoaded, sentence.to_owned())
        }
        NvmlError::LibRmVersionMismatch => {
            let loaded = sysfs::module_version(root).map(|version| format!(" ({version})")).unwrap_or_default();
            let sentence = format!(
                "the library {library} and the loaded kernel module{loaded} are of different versions, as after an \
                 upgrade: load the new module or reboot"
            );
            (DriverState::VersionMismatch, sentence)
        }
        error => (DriverState::Failed, format!("NVML cannot be initialised: {error}")),
    };
    Failure { kind: FailureKind::Driver(state), sentence }
}

pub(super) fn of_driver(what: &str, state: DriverState, error: &NvmlError) -> Failure {
    Failure { kind: FailureKind::Driver(state), sentence: format!("asking NVML for {what}: {error}") }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => chain(source),
        None => error.to_string(),
    }
}

/// What the device cannot say is `None`; an older driver lacks the function for it.
pub(super) fn optional<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An answer that a device has to give.
pub(super) trait Asked<T> {
    /// `what`: e.g. `for its UUID`.
    fn asked(self, index: u32, what: &str) -> Result<T, Failure>;
}

impl<T> Asked<T> for Result<T, NvmlError> {
    fn asked(self, index: u32, what: &str) -> Result<T, Failure> {
        self.map_err(|error| {
            let kind = if is_lost(&error) { FailureKind::Lost } else { FailureKind::Device };
            Failure { kind, sentence: format!("asking GPU {index} {what}: {error}") }
        })
    }
}

pub(super) const fn is_lost(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost)
}

/// Collects what one device says, and the first thing that is wrong with it.
#[derive(Debug)]
pub(super) struct Questions {
    pub(super) index: u32,
    pub(super) health: GpuHealth,
}

impl Questions {
    pub(super) const fn new(index: u32) -> Self {
        Self { index, health: GpuHealth::Ok }
    }

    /// `None` where the device cannot say; an error besides is the device's trouble.
    pub(super) fn ask<T>(&mut self, what: &str, answer: Result<T, NvmlError>) -> Option<T> {
        match optional(answer) {
            Ok(value) => value,
            Err(error) => {
                self.note(what, &error);
                None
            }
        }
    }

    fn note(&mut self, what: &str, error: &NvmlError) {
        let sentence = format!("asking GPU {} for {what}: {error}", self.index);
        match (&self.health, is_lost(error)) {
            // The worst word counts.
            (GpuHealth::Ok | GpuHealth::Faulty(_), true) => self.health = GpuHealth::Lost(sentence),
            (GpuHealth::Ok, false) => self.health = GpuHealth::Faulty(sentence),
            _ => {}
        }
    }
}
