//! The image and the compose file of `deploy/`, run by a Docker engine of the tests' own in a network namespace of its own.
//! Wants root and Debian's docker.io, docker-compose, busybox-static, redis and prometheus. Nothing is fetched: the images
//! that `deploy/compose.yaml` names are made of Debian's programs, everlink's own by the last stage of `deploy/Dockerfile`.

mod common;
#[path = "faults/mod.rs"]
#[allow(dead_code)]
mod faults;
#[path = "tunnel/traffic.rs"]
#[allow(dead_code)]
mod traffic;

mod containers {
    mod engine;
    mod image;
    mod images;
    mod road;
    mod running;
}
