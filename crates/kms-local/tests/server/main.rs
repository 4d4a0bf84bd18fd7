//! The server as its clients meet it: over real sockets, through `aws-sdk-kms` where it can ask the
//! question, and by hand-made requests where it cannot.

#[cfg(test)]
mod aliases;
#[cfg(test)]
mod data;
#[cfg(test)]
mod distance;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod multi_region;
#[cfg(test)]
mod persistence;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod signatures;
#[cfg(test)]
mod sts;
#[cfg(test)]
mod support;
