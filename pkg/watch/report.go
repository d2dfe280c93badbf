package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// kindManifest is the kind under which files are reported.
const kindManifest = "Manifest"

// maxReported bounds the lines that one object can cause.
const maxReported = 10

// reporter logs and counts what is wrong with objects: once, until something else is wrong with them.
type reporter struct {
	state *State
	log   *slog.Logger

	mu   sync.Mutex
	last map[key]string // of the objects with something wrong
}

func newReporter(state *State, log *slog.Logger) *reporter {
	return &reporter{state: state, log: log, last: make(map[key]string)}
}

// report says what is wrong with an object now; with no problems it forgets the object.
func (r *reporter) report(k key, problems []error) {
	if n := len(problems); n > maxReported {
		problems = append(problems[:maxReported:maxReported], fmt.Errorf("%v: %d more", k, n-maxReported))
	}
	if !r.isNew(k, problems) {
		return
	}
	r.state.reject(k.kind)
	for _, problem := range problems {
		r.log.Error("left out what is wrong", "error", problem)
	}
}

func (r *reporter) isNew(k key, problems []error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(problems) == 0 {
		delete(r.last, k)
		return false
	}
	text := errors.Join(problems...).Error()
	if r.last[k] == text {
		return false
	}
	r.last[k] = text
	return true
}
