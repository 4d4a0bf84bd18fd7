//! kms-pool
