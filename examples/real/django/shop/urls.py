from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path


def hello(request):
    return HttpResponse(f"Hello from Django, {User.objects.count()} users\n")


urlpatterns = [path("", hello), path("admin/", admin.site.urls)]
