// Package deploy tests that the manifest is what the API server and the agent understand.
package deploy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/svcproxy/svcproxy/pkg/config"
)

// objects decodes the manifest strictly: an unknown field is an error.
func objects(t *testing.T) []runtime.Object {
	t.Helper()
	file, err := os.ReadFile("daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var list []runtime.Object
	for documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(file))); ; {
		document := make([]byte, len(file))
		n, err := documents.Read(document)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(document[:n], nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, document[:n])
		}
		list = append(list, object)
	}
}

func one[T runtime.Object](t *testing.T) T {
	t.Helper()
	for _, o := range objects(t) {
		if o, ok := o.(T); ok {
			return o
		}
	}
	t.Fatalf("no %T in the manifest", *new(T))
	panic("unreachable")
}

func TestAgentUnderstandsItsArguments(t *testing.T) {
	container := one[*appsv1.DaemonSet](t).Spec.Template.Spec.Containers[0]
	if container.Args[0] != "run" {
		t.Fatalf("args begin with %q", container.Args[0])
	}
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	c := config.New()
	c.AddFlags(fs)
	var args []string
	for _, a := range container.Args[1:] {
		args = append(args, strings.ReplaceAll(a, "$(NODE_NAME)", "node-a"))
	}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(fs); err != nil {
		t.Fatal(err)
	}
	if c.Proxy.HostnameOverride != "node-a" || !c.PodsDetected() {
		t.Errorf("node %q, pods detected %v", c.Proxy.HostnameOverride, c.PodsDetected())
	}
}

func TestLeastPrivilege(t *testing.T) {
	pod := one[*appsv1.DaemonSet](t).Spec.Template.Spec
	security := pod.Containers[0].SecurityContext
	if *security.Privileged || !*security.ReadOnlyRootFilesystem || *security.AllowPrivilegeEscalation {
		t.Errorf("security context %+v", security)
	}
	want := []corev1.Capability{"BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"}
	got := slices.Sorted(slices.Values(security.Capabilities.Add))
	if !slices.Equal(got, want) || !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("capabilities %v of drop %v, want %v of ALL", got, security.Capabilities.Drop, want)
	}
	for _, rule := range one[*rbacv1.ClusterRole](t).Rules {
		for _, verb := range rule.Verbs {
			if write := !slices.Contains([]string{"get", "list", "watch"}, verb); write && !slices.Equal(rule.Resources, []string{"events"}) {
				t.Errorf("may %s %v", verb, rule.Resources)
			}
		}
	}
}

func TestProbes(t *testing.T) {
	container := one[*appsv1.DaemonSet](t).Spec.Template.Spec.Containers[0]
	for path, probe := range map[string]*corev1.Probe{"/livez": container.LivenessProbe, "/readyz": container.ReadinessProbe} {
		if probe == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.IntValue() != 10256 {
			t.Errorf("probe %+v, want %s of 10256", probe, path)
		}
	}
}

// Without the pods' network namespaces, those of pods that are yet to come included, a pod is two clients.
func TestNamespacesAreSeen(t *testing.T) {
	pod := one[*appsv1.DaemonSet](t).Spec.Template.Spec
	if pod.HostPID {
		t.Error("all processes of the host are visible: the namespaces would do")
	}
	name := ""
	for _, v := range pod.Volumes {
		if v.HostPath != nil && v.HostPath.Path == "/run/netns" {
			name = v.Name
		}
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		if m.Name == name && m.MountPath == "/run/netns" && *m.MountPropagation == corev1.MountPropagationHostToContainer {
			return
		}
	}
	t.Error("the container does not see /run/netns as it is on the host")
}
