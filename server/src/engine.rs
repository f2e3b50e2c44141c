//! What the server needs of a model. [`Model`] is one; tests script another.

use std::time::Duration;

use arrcoc_runtime::generate::{GenerateError, Request};
use arrcoc_runtime::model::{Generation, Model, ModelInfo, Occupancy};

/// A loaded model.
pub trait Engine: Send + Sync + 'static {
    /// Takes a request in, or refuses it at once, before any image is decoded.
    ///
    /// # Errors
    /// [`GenerateError`]; see [`Model::submit`].
    fn submit(&self, request: Request) -> Result<Generation, GenerateError>;

    /// A request's prompt in token ids; nothing is decoded or run.
    ///
    /// # Errors
    /// [`GenerateError`]; see [`Model::prompt_ids`].
    fn prompt_ids(&self, request: &Request) -> Result<Vec<u32>, GenerateError>;

    /// The bytes of a token, of a control token those of its name; none where no token has this id.
    fn token_bytes(&self, id: u32) -> Vec<u8>;

    /// What the model is and takes.
    fn info(&self) -> &ModelInfo;

    /// How busy it is.
    fn occupancy(&self) -> Occupancy;

    /// Takes no new requests from now on.
    fn drain(&self);

    /// Whether it can still answer.
    fn healthy(&self) -> bool;

    /// When a request that finds the queue full is likely to find room. An engine that measures nothing says
    /// a second.
    fn retry_after(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl Engine for Model {
    fn submit(&self, request: Request) -> Result<Generation, GenerateError> {
        Model::submit(self, request)
    }

    fn prompt_ids(&self, request: &Request) -> Result<Vec<u32>, GenerateError> {
        Model::prompt_ids(self, request)
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        Model::token_bytes(self, id).to_vec()
    }

    fn info(&self) -> &ModelInfo {
        Model::info(self)
    }

    fn occupancy(&self) -> Occupancy {
        Model::occupancy(self)
    }

    fn drain(&self) {
        Model::drain(self);
    }

    fn healthy(&self) -> bool {
        Model::healthy(self)
    }

    fn retry_after(&self) -> Duration {
        Model::retry_after(self)
    }
}
