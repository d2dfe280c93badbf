package watch

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func serviceCIDR(name string, cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

func cidrs(texts ...string) []netip.Prefix {
	list := []netip.Prefix{}
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// wantCIDRs takes, and compares the ServiceCIDRs; nil: unchanged.
func wantCIDRs(t *testing.T, s *State, want []netip.Prefix) {
	t.Helper()
	if diff := cmp.Diff(want, s.Take().ServiceCIDRs, compareAddrs); diff != "" {
		t.Errorf("ServiceCIDRs (-want +got):\n%s", diff)
	}
}

// and better: two objects may name one prefix, and what is told is all of them, once, at once.
func TestServiceCIDRs(t *testing.T) {
	s := syncedState(t)
	edits := func(name string, texts ...string) edit {
		k, o, err := convert(serviceCIDR(name, texts...), newInterner())
		if err != nil || len(o.problems) > 0 {
			t.Fatal(err, o.problems)
		}
		return edit{k, o}
	}
	deleted := func(name string) edit { return edit{key: edits(name).key} }
	s.apply(edits("kubernetes", "10.96.0.0/12", "fd96::/108"))
	if signalled(s) {
		t.Error("signalled before all of them are known")
	}
	wantCIDRs(t, s, nil)
	s.syncServiceCIDRs()
	for _, step := range []struct {
		name string
		edit edit
		want []netip.Prefix
	}{
		{"a second one, host bits set", edits("more", "10.0.0.1/16"), cidrs("10.0.0.0/16", "10.96.0.0/12", "fd96::/108")},
		{"the same again", edits("more", "10.0.0.0/16"), nil},
		{"one that names the first's", edits("twin", "10.96.0.0/12"), cidrs("10.0.0.0/16", "10.96.0.0/12", "fd96::/108")},
		{"its deletion leaves the first's", deleted("twin"), cidrs("10.0.0.0/16", "10.96.0.0/12", "fd96::/108")},
		{"deletion", deleted("more"), cidrs("10.96.0.0/12", "fd96::/108")},
		{"of nothing", deleted("more"), nil},
		{"of the last: none, not unchanged", deleted("kubernetes"), cidrs()},
	} {
		if step.name == "a second one, host bits set" {
			wantCIDRs(t, s, cidrs("10.96.0.0/12", "fd96::/108"))
		}
		s.apply(step.edit)
		if got := signalled(s); got != (step.want != nil) {
			t.Errorf("%s: signalled %v", step.name, got)
		}
		wantCIDRs(t, s, step.want)
	}
}

func TestConvertServiceCIDR(t *testing.T) {
	got, problems := convertServiceCIDR(serviceCIDR("kubernetes", "10.96.0.0/12", "here", "fd96::/108"))
	if diff := cmp.Diff(cidrs("10.96.0.0/12", "fd96::/108"), got, compareAddrs); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if len(problems) != 1 || problems[0].Error() != `ServiceCIDR kubernetes: spec.cidrs[1]: "here" is not a CIDR` {
		t.Errorf("problems %v", problems)
	}
}

func TestAPIServiceCIDRs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startAPI(t, nil, nodeA(nil), serviceCIDR("kubernetes", "10.96.0.0/12"))
		wantCIDRs(t, a.state, cidrs("10.96.0.0/12"))
		client := a.client.NetworkingV1().ServiceCIDRs()
		if _, err := client.Create(t.Context(), serviceCIDR("more", "fd96::/108"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantCIDRs(t, a.state, cidrs("10.96.0.0/12", "fd96::/108"))
		if err := client.Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantCIDRs(t, a.state, cidrs("fd96::/108"))
	})
}

// a server that is too old, or refuses, or fails, holds nothing else up, and is told of once.
func TestAPIWithoutServiceCIDRs(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		level string
	}{
		"too old": {apierrors.NewNotFound(schema.GroupResource{Group: "networking.k8s.io", Resource: "servicecidrs"}, ""), "INFO"},
		"refused": {apierrors.NewForbidden(schema.GroupResource{Group: "networking.k8s.io", Resource: "servicecidrs"}, "", nil), "ERROR"},
		"failing": {errors.New("oh no"), "ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var upgraded atomic.Bool
				a := startAPI(t, func(c *fake.Clientset) {
					c.PrependReactor("list", "servicecidrs", func(clienttesting.Action) (bool, runtime.Object, error) {
						return !upgraded.Load(), nil, tc.err
					})
				}, web(nil), nodeA(nil), serviceCIDR("kubernetes", "10.96.0.0/12"))
				if !signalled(a.state) {
					t.Fatal("not signalled")
				}
				wantUpdate(t, a.state, Update{Changes: []Change{{Name: webName, Service: webModel(nil)}}, Node: nodeAModel(nil)})
				if n := a.log.count("level="+tc.level, "resource=ServiceCIDR"); n != 1 {
					t.Errorf("told %d times:\n%s", n, a.log)
				}
				upgraded.Store(true)
				<-a.state.Changed()
				wantCIDRs(t, a.state, cidrs("10.96.0.0/12"))
			})
		})
	}
}
