package hand

import (
	"fmt"
	"sync"
)

// server is the state of a child: what it holds open between two verbs.
type server struct {
	name string

	mu      sync.Mutex
	sockets map[int]bool // file descriptors of [Socket]s

	listeners *table[stopper]
	loads     *table[*load]
}

type stopper interface{ stop() }

// table gives out ids for things that the parent names later.
type table[T any] struct {
	mu   sync.Mutex
	last int
	m    map[int]T
}

func newTable[T any]() *table[T] { return &table[T]{m: map[int]T{}} }

func (t *table[T]) add(v T) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.m[t.last] = v
	return t.last
}

func (t *table[T]) lookup(id int) (T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.m[id]
	if !ok {
		return v, fmt.Errorf("no %T with id %d", v, id)
	}
	return v, nil
}

func (t *table[T]) remove(id int) (T, error) {
	v, err := t.lookup(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, id)
	return v, err
}
