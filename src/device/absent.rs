//! Stands in for a backend that was not compiled in. No value of it can exist, so nothing here runs.

use super::{Backend, Caps, Gpu, Launch, Profile, Storage, Tensor};
use crate::{error::Result, shape::Spec};

/// CUDA, which this build does not contain.
#[derive(Debug)]
pub enum Cuda {}

macro_rules! absent { ($($t:ident),*) => { $(
    impl Backend for $t {
        fn caps(&self) -> Caps { match *self {} }
        fn alloc(&self, _: &Spec) -> Result<Storage> { match *self {} }
        fn write(&self, _: &Tensor, _: &[u8]) -> Result<()> { match *self {} }
        fn read(&self, _: &Tensor, _: &mut [u8]) -> Result<()> { match *self {} }
        fn zero(&self, _: &Tensor) -> Result<()> { match *self {} }
        fn time(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<f64> { match *self {} }
        fn trim(&self) -> Result<()> { match *self {} }
        fn profile(&self) -> &Profile { match *self {} }
    }
    impl Gpu for $t { fn launch(&self, _: Launch) -> Result<()> { match *self {} } }
)* } }
absent!(Cuda);
