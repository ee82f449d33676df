package api

// Operation is a route as tests see it.
type Operation struct {
	Method, Pattern, ID string
	Admin, Stream       bool
	Upload, List        bool
}

// Operations lists every route.
func Operations() []Operation {
	var all []Operation
	for _, r := range routes() {
		all = append(all, Operation{
			r.Method, r.Pattern, r.Operation, r.Access == accessAdmin, r.Stream != nil, r.Upload, r.Handle.list,
		})
	}
	return all
}

// SlugOf is slugOf.
func SlugOf(name string) string { return slugOf(name) }

// ValidSlug says whether a slug may stand in a host name.
func ValidSlug(slug string) bool { return validLabel(slug, maxSlug) }

// Preview is preview.
func Preview(value string, secret bool) string { return preview(value, secret) }

// Tag is the operation's section in the document.
func (o Operation) Tag() string { return (&route{Pattern: o.Pattern}).tag() }
