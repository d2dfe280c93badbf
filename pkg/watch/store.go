package watch

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// store is where the reflector of one kind puts what it reads: converted, and straight into the State. One
// goroutine writes it.
type store struct {
	kind   string
	source *apiSource
	known  map[endpoints.ObjectName]struct{} // what the server has, to find what a later list leaves out

	sync   sync.Once
	synced chan struct{} // closed when a list has been put into the State
}

var _ cache.TransformingStore = (*store)(nil)

func (src *apiSource) store(kind string) *store {
	return &store{kind: kind, source: src, known: make(map[endpoints.ObjectName]struct{}), synced: make(chan struct{})}
}

// wait returns when there has been a list, or false when ctx ends first.
func (s *store) wait(ctx context.Context) bool {
	select {
	case <-s.synced:
		return true
	case <-ctx.Done():
		return false
	}
}

// Add is [store.Update].
func (s *store) Add(obj any) error { return s.Update(obj) }

// Update takes an object of the watch.
func (s *store) Update(obj any) error {
	decoded := time.Now()
	c, err := s.source.convert(obj)
	if err != nil {
		return err
	}
	s.known[c.key.name] = struct{}{}
	s.source.sink.applySince(decoded, edit{c.key, c.object})
	return nil
}

// Delete takes a deletion of the watch.
func (s *store) Delete(obj any) error {
	meta, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("delete %T: not an object", obj)
	}
	name := endpoints.ObjectName{Namespace: meta.GetNamespace(), Name: meta.GetName()}
	delete(s.known, name)
	s.source.sink.applySince(time.Now(), edit{key: key{s.kind, name}})
	return nil
}

// Replace takes a list: what it leaves out has gone, when we did not look.
func (s *store) Replace(list []any, _ string) error {
	edits := make([]edit, 0, len(list))
	listed := make(map[endpoints.ObjectName]struct{}, len(list))
	for _, obj := range list {
		c, err := s.source.convert(obj)
		if err != nil {
			return err
		}
		listed[c.key.name] = struct{}{}
		edits = append(edits, edit{c.key, c.object})
	}
	for name := range s.known {
		if _, ok := listed[name]; !ok {
			edits = append(edits, edit{key: key{s.kind, name}})
		}
	}
	s.known = listed
	s.source.sink.apply(edits...)
	s.sync.Do(func() { close(s.synced) })
	return nil
}

// Resync has nothing to do: nobody forgets.
func (s *store) Resync() error { return nil }

// Transformer converts the objects of a list one by one as they are streamed. At 100,000 endpoints the API's own
// types would be the greatest part of our memory.
func (s *store) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return s.source.convert(obj) }
}

// converted is what is left of an API object, and its name for the reflector.
type converted struct {
	metav1.ObjectMeta // name and namespace, nothing else
	key               key
	object            *object
}

func (src *apiSource) convert(obj any) (*converted, error) {
	if c, done := obj.(*converted); done { // by the Transformer
		return c, nil
	}
	k, o, err := convert(obj, src.interner)
	if err != nil {
		return nil, err
	}
	return &converted{metav1.ObjectMeta{Namespace: k.name.Namespace, Name: k.name.Name}, k, o}, nil
}
