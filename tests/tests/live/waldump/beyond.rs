//! What `seawall waldump` has beyond pg_waldump.
