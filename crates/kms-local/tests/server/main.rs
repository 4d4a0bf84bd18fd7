//! Tests the server from its clients' side: over real sockets, through `aws-sdk-kms` where
//! possible, and otherwise with raw requests.

#[cfg(test)]
mod aliases;
#[cfg(test)]
mod data;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod latency;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod multi_region;
#[cfg(test)]
mod persistence;
#[cfg(test)]
#[cfg(feature = "cli")]
mod program;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod signatures;
#[cfg(test)]
mod sts;
#[cfg(test)]
mod support;
