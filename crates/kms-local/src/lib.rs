//! kms-local
