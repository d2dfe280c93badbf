package bpf

import "errors"

// ErrFull is returned (wrapped) when a table has reached its limit.
var ErrFull = errors.New("table is full")

// ErrClaimed says that another process works below the root.
var ErrClaimed = errors.New("another svcproxy is at work there")
