//! The stand-in for the backend in a build without the feature `wgpu`: no adapter is ever opened.

mod shared;

pub use shared::{ALIGN, Abilities, PRELUDE, TileLayout, WgpuStats, fold, size_class};

use super::{Backend, Caps, Gpu, Launch, LibraryFacts, Profile, Storage, Tensor};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use std::convert::Infallible;

/// An adapter; there is no value of this type in this build.
pub struct Wgpu(Infallible);

/// A buffer; there is no value of this type in this build.
#[derive(Debug)]
pub struct Memory(pub Infallible);

impl Wgpu {
    /// The adapters by the number that `wgpu:N` takes: none.
    pub fn list() -> Vec<String> {
        Vec::new()
    }
    /// The libraries that find the adapters: none.
    pub fn libraries() -> Vec<LibraryFacts> {
        Vec::new()
    }
    /// Whether this build contains the backend.
    pub const BUILT: bool = false;

    /// Opens no adapter.
    ///
    /// # Errors
    /// Always of kind `Device`, with the command that builds the backend.
    pub fn new(_index: usize) -> Result<Wgpu> {
        Err(Error::device("this build has no wgpu backend (Vulkan, Metal, DX12)")
            .with_help("build it with `cargo build --release --features wgpu`, or run with --device cpu"))
    }
    /// See the backend.
    pub fn with_bindings(self, _bytes: u64) -> Wgpu {
        self
    }
    /// See the backend.
    pub fn lose(&self) {
        match self.0 {}
    }
    /// See the backend.
    pub fn stats(&self) -> WgpuStats {
        match self.0 {}
    }
    /// See the backend.
    pub fn with_tiles(self, _tiles: TileLayout) -> Wgpu {
        self
    }
    /// See the backend.
    ///
    /// # Errors
    /// None: it is never called.
    pub fn can_compute_half(&self) -> Result<()> {
        match self.0 {}
    }
    /// See the backend.
    ///
    /// # Errors
    /// None: it is never called.
    pub fn with_half(self) -> Result<Wgpu> {
        match self.0 {}
    }
    /// See the backend.
    pub fn half(&self) -> Option<(u32, u32)> {
        match self.0 {}
    }
    /// See the backend.
    pub fn with_checks(self) -> Wgpu {
        self
    }
    /// See the backend.
    pub fn tiles(&self) -> TileLayout {
        match self.0 {}
    }
    /// See the backend.
    pub fn lanes(&self) -> u32 {
        match self.0 {}
    }
    /// See the backend.
    pub fn abilities(&self) -> &Abilities {
        match self.0 {}
    }
    /// See the backend.
    pub fn binding_bytes(&self) -> usize {
        match self.0 {}
    }
    /// See the backend.
    ///
    /// # Errors
    /// None: it is never called.
    pub fn scratch(&self, _dtype: DType, _shape: &[usize]) -> Result<Tensor> {
        match self.0 {}
    }
    /// See the backend.
    ///
    /// # Errors
    /// None: it is never called.
    pub fn constants(&self, _values: &[u32]) -> Result<Tensor> {
        match self.0 {}
    }
}

impl Backend for Wgpu {
    fn caps(&self) -> Caps {
        match self.0 {}
    }
    fn alloc(&self, _spec: &Spec) -> Result<Storage> {
        match self.0 {}
    }
    fn write(&self, _dst: &Tensor, _src: &[u8]) -> Result<()> {
        match self.0 {}
    }
    fn read(&self, _src: &Tensor, _dst: &mut [u8]) -> Result<()> {
        match self.0 {}
    }
    fn zero(&self, _dst: &Tensor) -> Result<()> {
        match self.0 {}
    }
    fn time(&self, _work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        match self.0 {}
    }
    fn trim(&self) -> Result<()> {
        match self.0 {}
    }
    fn profile(&self) -> &Profile {
        match self.0 {}
    }
}

impl Gpu for Wgpu {
    fn launch(&self, _launch: Launch) -> Result<()> {
        match self.0 {}
    }
}
