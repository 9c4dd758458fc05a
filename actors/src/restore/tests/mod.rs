//! Tests of the restore pipeline against hand-built repositories.
