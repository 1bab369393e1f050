//! Checks that the fuzz targets run; see `README.md`.

pub mod checks;
