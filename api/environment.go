package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

func (s *Server) listEnvironments(c *call) (rows[resource.Environment], error) {
	dep, err := c.deployment()
	if err != nil {
		return rows[resource.Environment]{}, err
	}
	found, err := collect(c, store.Environments, store.EnvironmentsOf(dep.TenantID, dep.ID), nil)
	slices.Reverse(found)
	return rowsOf(found, true, func(e miosa.Environment) string { return e.ID }, func(e miosa.Environment) (resource.Environment, error) {
		return c.environmentResource(dep, e)
	}), err
}

func (s *Server) createEnvironment(c *call, in resource.EnvironmentCreate) (resource.Environment, error) {
	var f faults
	f.label("name", in.Name, maxEnvironment)
	if err := f.err(); err != nil {
		return resource.Environment{}, err
	}
	err := c.updateRoom(func(tx *store.Tx) error {
		dep, err := c.txDeployment(tx, c.r.PathValue("id"))
		if err != nil {
			return err
		}
		if err := c.roomForEnvironment(tx, dep); err != nil {
			return err
		}
		env, err := c.addEnvironment(tx, dep, in.Name)
		if err != nil {
			return err
		}
		c.made = made{Deployment: dep.ID, Environment: env.ID}
		return c.audit(tx, miosa.Event{DeploymentID: dep.ID, Type: "environment.created", Message: fmt.Sprintf("environment %s was made", env.Name)})
	})
	if err != nil {
		return resource.Environment{}, err
	}
	dep, err := c.deploymentBy(c.made.Deployment)
	if err != nil {
		return resource.Environment{}, err
	}
	env, err := c.environment(dep, c.made.Environment)
	if err != nil {
		return resource.Environment{}, err
	}
	return c.environmentResource(dep, env)
}

func (s *Server) listVars(c *call) (rows[resource.Var], error) {
	dep, err := c.deployment()
	if err != nil {
		return rows[resource.Var]{}, err
	}
	env, err := c.environment(dep, query(c.r.URL.Query(), "environment", miosa.Production))
	if err != nil {
		return rows[resource.Var]{}, err
	}
	vars, err := store.Get(c.r.Context(), s.store, store.VarSets, store.VarsKey(dep.TenantID, dep.ID, env.ID))
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return rows[resource.Var]{}, err
	}
	c.etag = vars.Revision
	return varRows(vars), nil
}

func varRows(vars miosa.Vars) rows[resource.Var] {
	r := rowsOf(vars.Vars, true, func(v miosa.Var) string { return v.Key }, func(v miosa.Var) (resource.Var, error) {
		return resource.Var{Key: v.Key, Preview: v.Preview, IsSecret: v.Secret, UpdatedAt: v.UpdatedAt.UTC()}, nil
	})
	r.whole = true
	return r
}

func (s *Server) mergeVars(c *call, in resource.VarsMerge) (rows[resource.Var], error) {
	var f faults
	if in.Env == nil {
		f.add("env", `is needed: {"KEY": "value"}, null to delete`)
	}
	for key, value := range in.Env {
		if value == nil {
			f.varName("env."+key, key)
			continue
		}
		f.variable("env."+key, key, *value)
	}
	slices.SortFunc(f, func(a, b miosa.Field) int { return strings.Compare(a.Name, b.Name) })
	if err := f.err(); err != nil {
		return rows[resource.Var]{}, err
	}
	vars, err := c.changeVars(orElse(in.Environment, miosa.Production), in.Env, in.IsSecret)
	return varRows(vars), err
}

func orElse(v, absent string) string {
	if v == "" {
		return absent
	}
	return v
}

func (s *Server) deleteVar(c *call, _ none) (resource.Deleted, error) {
	key := c.r.PathValue("key")
	var f faults
	if !f.varName("key", key) {
		return resource.Deleted{}, absent("variable", key)
	}
	_, err := c.changeVars(query(c.r.URL.Query(), "environment", miosa.Production), map[string]*string{key: nil}, false)
	return resource.Deleted{ID: key, Deleted: true}, err
}

// changeVars sets and deletes variables of one environment. Values are sealed
// before anything is written.
func (c *call) changeVars(environment string, values map[string]*string, secret bool) (miosa.Vars, error) {
	dep, err := c.deployment()
	if err != nil {
		return miosa.Vars{}, err
	}
	env, err := c.environment(dep, environment)
	if err != nil {
		return miosa.Vars{}, err
	}
	fresh, err := c.sealVars(dep, env, values, secret)
	if err != nil {
		return miosa.Vars{}, err
	}
	place := store.VarsKey(dep.TenantID, dep.ID, env.ID)
	err = c.update(func(tx *store.Tx) error {
		if _, err := c.txDeployment(tx, dep.ID); err != nil {
			return err
		}
		if env, err = store.Load(tx, store.Environments, store.EnvironmentKey(dep.TenantID, dep.ID, env.ID)); err != nil {
			return err
		}
		vars, err := store.Load(tx, store.VarSets, place)
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return err
		}
		if err := c.match(vars.Revision); err != nil {
			return err
		}
		vars.TenantID, vars.DeploymentID, vars.EnvironmentID = dep.TenantID, dep.ID, env.ID
		touched, err := merge(&vars, values, fresh, c.route.Method == http.MethodDelete)
		if err != nil {
			return err
		}
		if err := c.saveVars(tx, env, vars); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{
			DeploymentID: dep.ID, Type: "variables.changed",
			Message: fmt.Sprintf("variables of %s were changed: %s; they take effect at the next publish or restart", env.Name, summary(touched)),
		})
	})
	if err != nil {
		return miosa.Vars{}, err
	}
	vars, err := store.Get(c.r.Context(), c.s.store, store.VarSets, place)
	c.etag = vars.Revision
	return vars, err
}

// sealVars seals the values that are not nil.
func (c *call) sealVars(dep miosa.Deployment, env miosa.Environment, values map[string]*string, secret bool) (map[string]miosa.Var, error) {
	fresh := map[string]miosa.Var{}
	for key, value := range inOrder(values) {
		if value == nil {
			continue
		}
		sealed, err := c.s.secrets.Seal(c.r.Context(), dep.TenantID, miosa.VarAAD(env.ID, key), []byte(*value))
		if err != nil {
			return nil, fmt.Errorf("seal variable: %w", err)
		}
		fresh[key] = miosa.Var{Key: key, Sealed: sealed, Preview: preview(*value, secret), Secret: secret, UpdatedAt: c.s.now().UTC()}
	}
	return fresh, nil
}

// saveVars writes an environment's variables, and that they changed.
func (c *call) saveVars(tx *store.Tx, env miosa.Environment, vars miosa.Vars) error {
	if err := store.Save(tx, store.VarSets, vars); err != nil {
		return err
	}
	env.VarsRevision++
	env.UpdatedAt = c.s.now().UTC()
	return store.Save(tx, store.Environments, env)
}

// merge returns the names that were set or deleted.
func merge(vars *miosa.Vars, values map[string]*string, fresh map[string]miosa.Var, mustExist bool) ([]string, error) {
	kept := []miosa.Var{}
	existed := map[string]bool{}
	for _, v := range vars.Vars {
		existed[v.Key] = true
		// A secret stays one until it is deleted: who sets it anew may have
		// left that out.
		if f, ok := fresh[v.Key]; ok && v.Secret {
			f.Secret, f.Preview = true, preview("", true)
			fresh[v.Key] = f
		}
		if _, changed := values[v.Key]; !changed {
			kept = append(kept, v)
		}
	}
	var touched []string
	size := 0
	for key := range inOrder(values) {
		if mustExist && !existed[key] {
			return nil, absent("variable", key)
		}
		touched = append(touched, key)
		if v, ok := fresh[key]; ok {
			kept = append(kept, v)
		}
	}
	for _, v := range kept {
		size += len(v.Sealed)
	}
	switch {
	case len(kept) > maxVars:
		return nil, invalidField("env", fmt.Sprintf("an environment may have at most %d variables, it would have %d", maxVars, len(kept)))
	case size > maxVarsTotal:
		return nil, invalidField("env", fmt.Sprintf("the variables of an environment may have at most %d KB together", maxVarsTotal>>10))
	}
	slices.SortFunc(kept, func(a, b miosa.Var) int { return strings.Compare(a.Key, b.Key) })
	slices.Sort(touched)
	vars.Vars = kept
	return touched, nil
}

// summary keeps an event's message short.
func summary(names []string) string {
	if len(names) > 10 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:10], ", "), len(names)-10)
	}
	return strings.Join(names, ", ")
}

// preview shows enough of a long value to recognise it by, and nothing of a
// short one or a secret.
func preview(value string, secret bool) string {
	const dots = "••••••••"
	runes := []rune(value)
	if secret || len(runes) < 12 {
		return dots
	}
	return string(runes[:2]) + dots
}
