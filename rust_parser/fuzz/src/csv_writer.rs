//! Any bytes as a COPY: refused or written; and what was read is written, read again, and the same.
