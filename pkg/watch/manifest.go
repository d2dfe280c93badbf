package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// isManifest reports whether a file of that name is ours to read: not an editor's or a mount's own.
func isManifest(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	return isJSON(name) || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

func isJSON(name string) bool { return strings.HasSuffix(name, ".json") }

// found is an object of a file, and where in the file it is.
type found struct {
	doc    document
	object metav1.Object // a *Service, *EndpointSlice, *Node or *ServiceCIDR
}

// parseManifest reads the objects of a file in their order. Warnings are about what is ignored. An error
// is about the whole file: nobody knows what its author meant.
func parseManifest(file string, data []byte) (objects []found, warnings []string, err error) {
	split := splitYAML
	if isJSON(file) {
		split = splitJSON
	}
	docs, err := split(data)
	if err != nil {
		return nil, nil, err
	}
	p := parser{}
	for _, doc := range docs {
		if err := p.document(doc); err != nil {
			return nil, nil, fmt.Errorf("%v: %w", doc, err)
		}
	}
	return p.objects, p.warnings, nil
}

type parser struct {
	objects  []found
	warnings []string
}

// kindOf is the part of an object that says how to read the rest.
type kindOf struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

func (p *parser) document(doc document) error {
	k, err := kindIn(doc.json)
	if err != nil {
		return err
	}
	if k != (kindOf{"v1", "List"}) {
		return p.item(doc, k)
	}
	var list struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ListMeta   `json:"metadata"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := p.decode(doc, "List", &list); err != nil {
		return err
	}
	for i, item := range list.Items {
		doc := document{number: doc.number, line: doc.line, json: item}
		k, err := kindIn(item)
		if err == nil {
			err = p.item(doc, k)
		}
		if err != nil {
			return fmt.Errorf("items[%d]: %w", i, err)
		}
	}
	return nil
}

func kindIn(data []byte) (kindOf, error) {
	var k kindOf
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &k); err != nil {
		return kindOf{}, err
	}
	if k.APIVersion == "" || k.Kind == "" {
		return kindOf{}, errors.New("apiVersion or kind is missing")
	}
	return k, nil
}

func (p *parser) item(doc document, k kindOf) error {
	var obj metav1.Object
	switch k {
	case kindOf{"v1", kindService}:
		obj = &corev1.Service{}
	case kindOf{"discovery.k8s.io/v1", kindSlice}:
		obj = &discoveryv1.EndpointSlice{}
	case kindOf{"v1", kindNode}:
		obj = &corev1.Node{}
	case kindOf{"networking.k8s.io/v1", kindServiceCIDR}:
		obj = &networkingv1.ServiceCIDR{}
	default:
		p.warnings = append(p.warnings, fmt.Sprintf("%v: ignored: %s %s is not a Service, EndpointSlice, Node, ServiceCIDR or List", doc, k.APIVersion, k.Kind))
		return nil
	}
	if err := p.decode(doc, k.Kind, obj); err != nil {
		return err
	}
	if obj.GetName() == "" {
		return fmt.Errorf("%s: metadata.name is missing", k.Kind)
	}
	setDefaults(obj)
	p.objects = append(p.objects, found{doc, obj})
	return nil
}

// decode reads a document strictly: what does not fit is a warning, or an error if it has the wrong type.
func (p *parser) decode(doc document, kind string, into any) error {
	strict, err := kjson.UnmarshalStrict(doc.json, into)
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	for _, s := range strict {
		p.warnings = append(p.warnings, fmt.Sprintf("%v: %s: %v", doc, kind, s))
	}
	return nil
}

// setDefaults fills in what the API server would have (defaults.go of its core and discovery groups) and
// what convert takes for deliberate where it is missing. The rest convert fills in.
func setDefaults(obj metav1.Object) {
	switch obj.(type) {
	case *corev1.Node, *networkingv1.ServiceCIDR: // are in no namespace
		return
	}
	if obj.GetNamespace() == "" {
		obj.SetNamespace(metav1.NamespaceDefault)
	}
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		for i := range slice.Ports {
			if slice.Ports[i].Name == nil {
				slice.Ports[i].Name = new(string)
			}
		}
	}
}
