//! HTTP: one file per API family.
